"""The version of the package, by https://semver.org; CHANGELOG.md says what it applies to."""

__version__ = "0.1.0"

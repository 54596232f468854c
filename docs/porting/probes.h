/* Probes for a port in C99: the arrays of a case made again, and answers held against samples; see VECTORS.md.

   Include it after vectors.h. */

static uint64_t mixed_bits(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* The start of an array's random bits: its name is "input/x", "param/w" or "cotangent/out", or "samples". */
static uint64_t start_of(uint64_t seed, const char *name) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001B3u;
    return mixed_bits(seed ^ hash);
}

static uint64_t bits_of(uint64_t start, uint64_t i) { return mixed_bits(start + (i + 1) * 0x9E3779B97F4A7C15u); }

/* The array of a specification. */
static Array made(uint64_t seed, const char *name, const char *spec) {
    long shape[MOST_AXES];
    if (!member(spec, "shape")) fail("%s has no shape", name);
    Array x = array(read_shape(member(spec, "shape"), shape), shape);
    uint64_t start = start_of(seed, name), modulus = (uint64_t)number(spec, "modulus", 1);
    int exponent = (int)number(spec, "exponent", 0);
    for (long i = 0; i < size(x); i++) {
        uint64_t b = bits_of(start, i);
        if (is(spec, "kind", "signed")) {
            x.values[i] = (real)ldexp(2.0 * (b >> 56) - 255, -exponent);
        } else if (is(spec, "kind", "scale")) {
            x.values[i] = (real)((64.0 + (b >> 57)) / 128);
        } else if (is(spec, "kind", "ids")) {
            x.values[i] = (real)(b % modulus);
        } else if (is(spec, "kind", "one-hot")) {
            x.values[i] = bits_of(start, i / last(x)) % last(x) == (uint64_t)(i % last(x));
        } else if (is(spec, "kind", "tags")) {
            long inner = size(x) / x.shape[0] / x.shape[1], half = x.shape[1] / 2;
            x.values[i] = i / inner % x.shape[1] % (half ? half : 1) == 0;
        } else if (is(spec, "kind", "constant")) {
            x.values[i] = (real)number(spec, "value", 0);
        } else {
            fail("%s is of a kind that is not known here", name);
        }
    }
    return x;
}

/* The arrays of one group of a probe, beside those that the file has. */
static void make_group(const char *probe, const char *field, const char *group) {
    const char *specs = member(probe, field);
    uint64_t seed = strtoull(member(probe, "seed"), NULL, 10);
    if (!specs) return;
    for (const char *s = space(specs + 1); *s == '"';) {
        const char *spec = space(after(s));
        if (given_count == MOST_ARRAYS || after(s) - s - 1 + strlen(group) > NAME) fail("too many arrays");
        Entry *entry = &given[given_count++];
        snprintf(entry->name, NAME, "%s%.*s", group, (int)(after(s) - s - 2), s + 1);
        strcpy(entry->type, is(spec, "dtype", "bool") ? "BOOL" : "F64");
        entry->array = made(seed, entry->name, spec);
        s = space(after(spec));
    }
}

/* Everything that a probe is of; `weights` is a .safetensors file where it is one of given weights. */
static void make_arrays(const char *weights) {
    const char *probe = member(meta, "probe");
    make_group(probe, "inputs", "input/");
    make_group(probe, "cotangents", "cotangent/");
    make_group(probe, "params", "param/");
    if (member(probe, "weights")) {
        if (!weights) fail("the probe is of given weights: PROBE.safetensors WEIGHTS.safetensors");
        read_arrays(weights, "param/");
    }
}

/* The error of an answer: of its samples, and of the mean, the root mean square, the least and the largest element. */
static double sampled_difference(Array x, const Entry *samples, const Entry *statistics) {
    const real *kept = samples->array.values, *expected = statistics->array.values;
    double least = INFINITY, most = -INFINITY, sum = 0, squares = 0, error = 0;
    double scale = fmax(fmax(fabs((double)expected[2]), fabs((double)expected[3])), 1);
    for (long i = 0; i < size(x); i++) {
        double value = x.values[i];
        if (!isfinite(value)) return INFINITY; /* exported probes are finite */
        least = fmin(least, value), most = fmax(most, value), sum += value, squares += value * value;
    }
    for (long j = 0; j < samples->array.shape[0]; j++) {
        if (kept[2 * j] >= size(x)) return INFINITY;
        error = fmax(error, fabs((double)(x.values[(long)kept[2 * j]] - kept[2 * j + 1])));
    }
    double found[4] = {least, most, sum / size(x), sqrt(squares / size(x))};
    for (int i = 0; i < 4; i++) error = fmax(error, fabs(found[i] - expected[2 + i]));
    return error / scale;
}

/* `compare` for a probe. */
static int compare_samples(void) {
    double tolerance = sizeof(real) == 4 || is(meta, "dtype", "float32") ? 1e-5 : 1e-10, most = 0;
    int compared = 0, wrong = 0;
    tolerance = number(member(meta, "tolerance"), "output", tolerance);
    for (int i = 0; i < answer_count; i++) {
        char name[NAME + 16];
        snprintf(name, sizeof name, "sample/%.*s", NAME, answers[i].name);
        Entry *samples = find(given, given_count, name);
        snprintf(name, sizeof name, "statistics/%.*s", NAME, answers[i].name);
        Entry *statistics = find(given, given_count, name);
        if (!samples || !statistics) continue;
        double error = sampled_difference(answers[i].array, samples, statistics);
        compared++;
        if (error > most) most = error;
        if (error > tolerance && wrong++ < 3) printf("%s: error %.1e\n", answers[i].name, error);
    }
    if (!compared) fail("the probe has nothing to compare with");
    printf("%d of %d points differ in their samples; largest error %.1e, tolerance %.0e\n", wrong, compared, most,
           tolerance);
    return wrong;
}

"""What an option may be, by its name: whole number or number, and its least and largest value, for every peer and ours.

A name means the same wherever it is an option, so that it stands here once. The largest values are far above what was
ever published, and low enough that nothing runs for minutes or fills a machine before it is refused: layers are loops,
and a width is squared. A value that is an option's default is allowed whatever stands here (torch's 0 for "not given").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, shortened

LARGEST = 1 << 40
"""Of a number that no row names, and of the elements of one grid."""
MOST_LAYERS = 1_024
"""Of the layers of a model: the largest that was published has 60."""
DEPTH = 32
"""Levels of lists and objects in a value."""


@dataclass(frozen=True)
class Bound:
    """Whole numbers, or numbers, from `lowest` to `highest`, both included; or lists of such; or texts, too."""

    whole: bool
    lowest: float
    highest: float
    or_text: bool = False

    def said(self) -> str:
        """What is expected, for messages and the docs."""
        return f"a {'whole ' * self.whole}number from {_number(self.lowest)} to {_number(self.highest)}"


REPEATS = Bound(True, 0, 512)
HEADS = Bound(True, 0, 1 << 16)  # a class says itself why it cannot have 0
WIDTH = Bound(True, 0, 1 << 20)
LENGTH = Bound(True, 0, 1 << 31)
VOCABULARY = Bound(True, 1, 1 << 31)
COUNT = Bound(True, 0, LARGEST)
FACTOR = Bound(False, 2**-10, 1 << 16)
BANDS = Bound(True, 0, 1 << 16)
PROJECTED = Bound(True, -1, 1 << 20)
LAYERS_OR_ALL = Bound(True, -1, 512)
UPDATES = Bound(True, 0, 100_000)
LENGTH_OR_NONE = Bound(True, -1, 1 << 31)
DOUBLINGS = Bound(True, 0, 16)
WINDOW = Bound(True, 0, 1 << 16)
PADDING = Bound(True, 0, 1 << 16, or_text=True)
AXES = Bound(True, 1, 16)
EPSILON = Bound(False, 0, 1e6)
SHARE = Bound(False, 0, 1)
ANY = Bound(False, -math.inf, math.inf)
NUMBER = Bound(False, -1e18, 1e18)
LIMIT = Bound(False, 0, math.inf)
INDEX = Bound(True, -LARGEST, LARGEST)

_ROWS: tuple[tuple[Bound, str], ...] = (
    (
        REPEATS,
        """depth layers blocks num_layers num_blocks perceiver_depth resampler_depth self_per_cross_attn every
        num_self_attends_per_block num_self_attention_blocks num_self_attention_layers
        num_self_attention_layers_per_block num_cross_attention_layers num_transformers_per_block
        initial_query_embed_num_layers n_extra_pos_mlp position_layers cross_attends cross_attn_every
        rotary_layers additional_cross_attend_after_layers perceiver_resampler_num_layers perceive_depth
        hidden_blocks""",
    ),
    (
        HEADS,
        """heads num_heads n_heads cross_heads self_heads latent_heads kv_heads num_attention_heads num_key_value_heads
        num_cross_attend_heads num_cross_attention_heads num_self_attend_heads num_self_attention_heads
        num_transformer_heads resampler_heads resampler_n_heads cross_attention_head_group_size
        perceiver_resampler_num_attention_heads perceive_max_heads_process n_head num_attn_heads
        attention_heads""",
    ),
    (
        WIDTH,
        """channels dim dim_head head_dim head_channels cross_dim_head latent_dim latent_dim_head context_dim
        units width keys dim_visual queries_dim query_dim logits_dim embed_dim hidden hidden_size intermediate_size
        input_size d_model d_latents qk_channels v_channels self_qk_channels self_v_channels num_qk_channels
        num_v_channels q_inputs kv_inputs inputs outputs latent_channels query_channels media_channels
        image_channels audio_channels input_channels linear num_channels num_z_channels num_latent_channels
        num_query_channels num_input_channels num_output_channels num_kv_input_channels num_q_input_channels
        num_output_query_channels num_patch_hidden_channels num_patch_input_channels
        num_cross_attention_qk_channels num_cross_attention_v_channels num_self_attention_qk_channels
        num_self_attention_v_channels output_channels output_num_channels in_channels out_channels
        conv_after_patching_in_channels _label_trainable_num_channels q_dim kv_dim kdim vdim input_embed_dim
        msa_encoder_dim protein_encoder_dim structure_encoder_dim resampler_dim_head resampler_head_dim
        attn_residual_rank rank n_outputs num_outputs num_classes num_labels perceiver_resampler_hidden_size
        perceiver_resampler_mlp_intermediate_size perceiver_resampler_attention_head_dim attention_channels
        inner_size hidden_dim output_dim features last embedding_dim cross_attention_dim id_embeddings_dim
        clip_embeddings_dim embed_dims output_dims hidden_dims timestep_in_dim in_features out_features
        dim_context pre_attention_query_size ids""",
    ),
    (
        LENGTH,
        """latents num_latents n_latents max_latents resampler_n_latents resampler_num_latents perceiver_num_latents
        z_index_dim latent_index_dim num_queries num_output_queries index_dim index_dims output_index_dims
        subsampled_index_dims input_shape image_shape output_image_shape output_shape image_size train_size
        input_reshape_size patch_size max_resolution length max_len max_seq_len max_context_length
        max_position_embeddings num_frames frames max_num_frames max_video_frames media max_num_media
        num_media_embeds samples samples_per_patch audio_samples_per_frame num_latents_per_position
        latents_per_position chunked_cross_key_size chunked_cross_query_size resize source target size sizes
        grid normalized_shape perceiver_resampler_num_latents perceiver_resampler_num_latents_2d
        cross_attn_seq_len hidden_steps num_inputs pooled places num_latents_mean_pooled num_id_token
        latent_len feat_size n_queries pre_attention_query_token latent_query_num max_size max_temporal_size
        grid_size tokens""",
    ),
    (
        COUNT,
        """prefix_len train_input_positions media_token_id min_overlap min_padding min_padding_size decay_steps
        transition_steps transition_begin total_steps total_batch_size steps_per_epoch warmup_steps topk""",
    ),
    (
        FACTOR,
        """widening cross_widening self_widening widening_factor cross_attend_widening_factor
        cross_attention_widening_factor self_attend_widening_factor self_attention_widening_factor
        transformer_widening_factor mult ff_mult mlp_ratio aligner_ffn_mult resampler_ff_mult ffn_ratio
        ffproj_ratio""",
    ),
    (BANDS, "num_bands num_freq_bands num_frequency_bands"),
    (PROJECTED, "project_pos_dim num_head_channels"),
    (LAYERS_OR_ALL, "num_self_attention_rotary_layers"),
    (UPDATES, "steps"),
    (LENGTH_OR_NONE, "input_idx_size"),
    (VOCABULARY, "num_tokens vocab_size vocabulary"),
    (PADDING, "padding output_padding convolution_padding pool_padding"),
    (LIMIT, "max_norm clip_grad_norm"),
    (INDEX, "ignore_index padding_idx"),
    (DOUBLINGS, "n_time_upsamples n_space_upsamples"),
    (
        WINDOW,
        """kernel_shape kernel_size window_shape dilation groups stride strides rate rates spatial_block_size
        temporal_block_size space time spatial_downsample temporal_downsample spatial_upsample
        temporal_upsample patch""",
    ),
    (AXES, "input_axis"),
    (EPSILON, "eps eps_root norm_eps rms_norm_eps ln_eps layer_norm_eps"),
    (
        SHARE,
        """dropout drop dropout_p cross_attn_dropout attn_dropout ff_dropout dropout_prob dropout_attn_prob
        drop_path_rate attn_score_dropout attn_layer_dropout ffn_dropout seq_dropout_prob
        latent_dropout_prob dropout_rate encoder_dropout_prob decay_rate decay b1 b2 betas label_smoothing
        mask_probs mask_probabilities fraction_to_rotate fraction_heads_to_rotate""",
    ),
    (
        NUMBER,
        """norm_type att_init_scale dense_init_scale final_init_scale_multiplier z_pos_enc_init_scale deviation alpha
        rescale rescale_factor flow_scale_factor scale max_freq max_scale min_scale max_wavelength longest
        frequencies output_range z_loss beta scale_factor lr learning_rate weight_decay momentum dampening
        clamp_value exponent end_value init_value peak_value kl_weight timestep_freq_shift shortcut_scale""",
    ),
)
BOUNDS: dict[str, Bound] = {name: bound for bound, names in _ROWS for name in names.split()}
"""By the name of the option, or of the field of our own configuration."""


OF: dict[str, dict[str, Bound]] = {
    "the function": {"dim": Bound(True, -64, 64), "p": Bound(False, -math.inf, math.inf)},
}
"""Rows for one class alone, where its options are called like others: PyTorch's functions have axes called `dim`."""


def row(of: str, name: str) -> Bound | None:
    """The bounds of the option `name` of the class `of`."""
    return OF.get(of, {}).get(name) or BOUNDS.get(name)


def check(what: str, bound: Bound | None, value: Any, default: Any = None, typed: bool = False) -> None:
    """Raise `InputError`, beginning with `what`, unless a value may be that of an option of these bounds.

    Numbers, also in lists and objects, must be within the row's bounds; texts and truth values are for the option's
    own type to refuse (`typed`), or for this where the row wants a number and the default is none of them.
    """
    if value is None or _same(value, default):
        return
    if (
        bound is not None
        and isinstance(value, (str, bool))
        and not (typed or isinstance(default, (str, bool)) or (bound.or_text and isinstance(value, str)))
    ):
        raise InputError(f"{what} must be {bound.said()}, got {shortened(value)}")
    sizes = _check(what, value, bound, 0)
    if bound is LENGTH and math.prod(sizes) > LARGEST:
        raise InputError(f"{what} must be a grid of at most {_number(LARGEST)} elements, got {shortened(value)}")


def check_layers(what: str, chosen: Mapping[str, Any]) -> None:
    """Raise `InputError` when counts of layers within layers, such as blocks and layers, multiply to too many."""
    repeats = {k: v for k, v in chosen.items() if BOUNDS.get(k) is REPEATS and type(v) is int and v > 1}
    if math.prod(repeats.values()) > MOST_LAYERS:
        said = ", ".join(f"{key} {value:,}" for key, value in repeats.items())
        raise InputError(f"{what} has more than {MOST_LAYERS:,} layers: {said}")


def check_tree(what: str, value: Any) -> None:
    """Raise `InputError` unless a configuration has few levels, no NaN, and no whole number above `LARGEST`.

    What has a row is then held to it where it is read.
    """
    _check(what, value, ANY, 0)


def _check(what: str, value: Any, bound: Bound | None, depth: int) -> list[int]:
    """The whole numbers found on the first level."""
    if depth > DEPTH:
        raise InputError(f"{what} is nested too deeply")
    if isinstance(value, Mapping):
        for key, part in value.items():
            inner = ANY if bound is ANY else None
            _check(f"{what}: {shortened(key, bare=True)}" if depth == 0 else what, part, inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _check(what, part, bound, depth + 1)
        return [part for part in value if type(part) is int]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if bound is None or (bound is ANY and isinstance(value, int)):
            if not abs(value) <= (LARGEST if isinstance(value, int) else 1e300):
                raise InputError(f"{what} must be a number of at most {_number(LARGEST)}, got {shortened(value)}")
        elif (bound.whole and not isinstance(value, int)) or not bound.lowest <= value <= bound.highest:
            raise InputError(f"{what} must be {bound.said()}, got {shortened(value)}")
    return []


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and not isinstance(value, (dict, list, tuple)) and bool(value == default)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"

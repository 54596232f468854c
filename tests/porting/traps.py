"""What ports of the newer resamplers and poolers get wrong: the mistake, in which case, what it costs, its cause.

The cost is the largest error of an output there, in parts of its largest number or of 1, to two digits: a mistake that
costs another amount is another mistake.
"""

from __future__ import annotations

from typing import NamedTuple


class Trap(NamedTuple):
    """`causes`: the ids that may be named first."""

    case: str
    mistake: str
    cost: float
    causes: tuple[str, ...]


def _rows(text: str) -> list[Trap]:
    """Rows of "case | mistake | cost | causes"."""
    rows = []
    for line in filter(None, map(str.strip, text.strip().splitlines())):
        case, mistake, cost, causes = (part.strip() for part in line.split("|"))
        rows.append(Trap(case, mistake, float(cost), tuple(causes.split())))
    return rows


TRAPS = _rows("""
ip-adapter/attention | latents left out of the keys | 0.79 | latents-not-in-keys
ip-adapter/resampler_plain | latents left out of the keys | 0.37 | latents-not-in-keys
ip-adapter/resampler_plain | un-normed latents among the keys | 0.55 | latents-not-in-keys
ip-adapter/attention | un-normed latents among the keys | 0.41 | latents-not-in-keys
ip-adapter/attention | latents among the keys with the features' norm | 0.6 | latents-not-in-keys norm-shared
ip-adapter/resampler_plain | latents among the keys with the features' norm | 0.31 | latents-not-in-keys norm-shared
ip-adapter/resampler_plain | values before keys | 1 | key-value-swapped
ip-adapter/resampler_plain | heads split width first | 1.3 | head-layout
ip-adapter/resampler_plain | no scale | 0.27 | attention-scale
ip-adapter/proj_plus_shortcut | the last norm before the last map | 0.29 | final-norm
ip-adapter/proj_plus | the last norm before the last map | 0.79 | final-norm
ip-adapter/resampler_plain | a plain norm before the last map, none after it | 0.43 | final-norm
ip-adapter/resampler_plain | tanh GELU | 0.00047 | activation
ip-adapter/resampler_plain | epsilon 1e-6 | 4.4e-05 | layer-norm-eps
ip-adapter/resampler_mean_pooled | pooled latents last | 1.5 | token-order
diffusers/time | chunks read as scale, shift | 0.99 | modulation
diffusers/time | sines and cosines exchanged | 1.5 | fourier-order time-embedding
diffusers/time_one_token | sines and cosines exchanged | 1.2 | fourier-order time-embedding
diffusers/time | the other frequency shift | 1.6 | fourier-frequencies time-embedding
diffusers/time_sin_first_odd | the other frequency shift | 0.29 | fourier-frequencies time-embedding
diffusers/time_sin_first_odd | sines and cosines exchanged | 0.64 | fourier-order time-embedding
pulid/idformer | ReLU in the maps | 0.036 | activation
pulid/idformer | GELU in the maps | 0.22 | activation
pulid/idformer | identities left out of the context | 0.24 | context
pulid/idformer_several_ids | identities left out of the context | 0.22 | context
pulid/idformer | updated identities in the context | 0.39 | context
pulid/idformer_several_ids | updated identities in the context | 0.23 | context
pulid/idformer | the last latents returned | 1.2 | token-order
timm/pool_bool_mask_all_latents | the other attention's rule of masks | 0.72 | mask-kind
timm/pool_unfused_bool_mask | the other attention's rule of masks | 0.82 | mask-kind
timm/pool_bool_mask_all_latents | empty row uniform | 0.58 | fully-masked-row
timm/pool_bool_mask_all_latents | True taken for padding | 1.1 | mask-inverted
timm/pool_map | the other GELU | 0.00031 | activation
timm/pool_map | the other epsilon | 2.1e-05 | layer-norm-eps
timm/pool_bool_mask_all_latents | the other epsilon | 0.00025 | layer-norm-eps
open-clip/pooler | queries un-normed | 0.31 | norm-missing
open-clip/pooler | tokens un-normed | 0.68 | norm-missing
siglip/head | a residual to the probe | 1.2 | query-residual
siglip/head | the other GELU | 0.00036 | activation
siglip/head2_mask_empty_row | empty row zero | 0.45 | fully-masked-row
siglip/head2_mask | 1 taken for padding | 0.84 | mask-inverted
shape2vecset/autoencoder | the gate first | 0.75 | activation
shape2vecset/vecset_point | the gate first | 1.9 | activation
shape2vecset/autoencoder | context un-normed | 1.3 | norm-missing
shape2vecset/vecset_point | a norm of the context | 0.98 | norm-extra
shape2vecset/autoencoder | sines and cosines in turn | 1.2 | fourier-order
shape2vecset/autoencoder | the point first | 1.1 | fourier-order
shape2vecset/autoencoder | columns of a frequency together | 1.1 | fourier-order
shape2vecset/autoencoder | pi in float64 | 9.2e-06 | fourier-frequencies
shape2vecset/point_embed | sines and cosines in turn | 1.3 | fourier-order
shape2vecset/point_embed | the point first | 1.6 | fourier-order
shape2vecset/point_embed | columns of a frequency together | 1.5 | fourier-order
shape2vecset/point_embed | pi in float64 | 3.4e-06 | fourier-frequencies
shape2vecset/autoencoder | a residual around the decoder's attention | 1.6 | query-residual
shape2vecset/autoencoder_tied_ff | a residual around the decoder's attention | 1.6 | query-residual
shape2vecset/kl_autoencoder | the divergence summed | 31 | loss
shape2vecset/vecset_kl | the divergence summed | 0.29 | loss
shape2vecset/vecset_learnable_normalized | learned queries not added again | 0.42 | context query-residual
shape2vecset/vecset_kl | learned queries not added again | 1.1 | context query-residual
xtts/resampler_mask | mask of the context first | 1.1 | token-order
xtts/resampler_mask | mask given with the context first | 0.54 | token-order
xtts/resampler_flash_mask | mask given with the context first | 0.53 | token-order
xtts/resampler_flash_mask | mask of the context first | 0.41 | token-order
naturalspeech2/resampler_flash | latents left out of the keys | 0.28 | latents-not-in-keys
xtts/resampler_mask | latents left out of the keys | 0.82 | latents-not-in-keys
xtts/resampler_flash_mask | latents left out of the keys | 0.32 | latents-not-in-keys
xtts/resampler_one_token | latents left out of the keys | 1.4 | latents-not-in-keys
xtts/resampler_proj_context | latents left out of the keys | 0.47 | latents-not-in-keys
xtts/resampler_proj_context | the gate first | 0.33 | activation
xtts/resampler_proj_context | tanh GELU | 0.00013 | activation
naturalspeech2/resampler_flash | mean square with epsilon 1e-5 | 8.6e-06 | layer-norm-eps
xtts/resampler_one_token | mean square with epsilon 1e-5 | 1.4e-05 | layer-norm-eps
naturalspeech2/resampler_flash | latents normed before attention | 0.15 | norm-extra
xtts/resampler_mask | latents normed before attention | 0.65 | norm-extra
xtts/resampler_flash_mask | latents normed before attention | 0.34 | norm-extra
xtts/resampler_mask | fully masked rows the other way | 0.54 | fully-masked-row
xtts/resampler_flash_mask | fully masked rows the other way | 0.17 | fully-masked-row
chatterbox/block_flash_bool_mask | the scale argument used | 0.21 | attention-scale
chatterbox/block_channels | attention over positions | 1.1 | softmax-axis
chatterbox/block_channels_mask | attention over positions | 1.4 | softmax-axis
chatterbox/perceiver | one pass | 0.65 | block-order weight-sharing branch-missing
chatterbox/perceiver_one_token | one pass | 0.41 | block-order weight-sharing branch-missing
chatterbox/perceiver | the second pass attends to the input again | 0.82 | context block-order
chatterbox/perceiver_one_token | the second pass attends to the input again | 0.51 | context block-order
chatterbox/block_channels | context not normalised | 0.46 | norm-missing
chatterbox/block_channels_mask | context not normalised | 0.83 | norm-missing
chatterbox/block_flash_additive_mask | context not normalised | 0.69 | norm-missing
chatterbox/block_flash_bool_mask | context not normalised | 0.46 | norm-missing
chatterbox/perceiver | context not normalised | 0.77 | norm-missing
chatterbox/perceiver_one_token | context not normalised | 0.74 | norm-missing
edgetam/resampler_1d_2d | heads merged properly | 1.2 | head-layout
edgetam/resampler_1d_pos | heads merged properly | 1.3 | head-layout
edgetam/resampler_1d_pos | positions on keys only | 0.97 | position-use
edgetam/resampler_window_grid | positions on keys only | 0.41 | position-use
edgetam/resampler_2d_padded | padding masked out | 0.23 | mask-ignored mask-kind
edgetam/resampler_2d_padded | output positions x before y | 2 | position-axes
edgetam/resampler_window_grid | output positions x before y | 2 | position-axes
edgetam/resampler_2d_padded | output positions counted from 0 | 2 | position-grid
edgetam/resampler_window_grid | output positions counted from 0 | 1 | position-grid
edgetam/resampler_1d_2d | no MLP after self-attention | 0.73 | branch-missing
edgetam/resampler_2d_padded | no MLP after self-attention | 0.82 | branch-missing
edgetam/resampler_window_grid | no MLP after self-attention | 0.68 | branch-missing
kosmos2/kosmos2_5_eager | latents first | 0.99 | token-order
kosmos2/kosmos2_eager | latents first | 0.97 | token-order
kosmos2/kosmos2_5_sdpa | latents left out of the keys | 0.66 | latents-not-in-keys
kosmos2/kosmos2_sdpa_one_token | latents left out of the keys | 1.1 | latents-not-in-keys
kosmos2/kosmos2_5_eager | a residual around the attention | 0.39 | query-residual
kosmos2/kosmos2_5_sdpa | a residual around the attention | 0.63 | query-residual
kosmos2/kosmos2_sdpa_one_token | a residual around the attention | 0.67 | query-residual
aria/projector_mask | True taken for what to attend to | 1.1 | mask-inverted
aria/projector | exact GELU | 0.00031 | activation
aria/projector_one_patch | exact GELU | 0.00015 | activation
aria/projector | the queries added | 0.53 | query-residual
aria/projector_float_mask | the queries added | 0.51 | query-residual
aria/projector_mask | the queries added | 0.57 | query-residual
aria/projector_one_patch | the queries added | 0.5 | query-residual
minicpmv/resampler25 | height before width | 0.39 | position-axes
minicpmv/resampler25_grow | height before width | 0.23 | position-axes
minicpmv/resampler2_adaptive | height before width | 0.5 | position-axes
minicpmv/resampler45_images | height before width | 0.19 | position-axes
minicpmv/resampler45_temporal | height before width | 0.55 | position-axes
minicpmv/resampler25 | positions on values too | 0.82 | position-use
minicpmv/resampler25_grow | positions on values too | 0.75 | position-use
minicpmv/resampler45_images | positions on values too | 0.69 | position-use
minicpmv/resampler45_temporal | positions on values too | 0.6 | position-use
minicpmv/resampler45_temporal | positions of the grid on values too | 0.55 | position-use
minicpmv/resampler25 | epsilon 1e-5 | 1.1e-05 | layer-norm-eps
minicpmv/resampler2_interpolated | epsilon 1e-5 | 2.9e-05 | layer-norm-eps
minicpmv/resampler2_adaptive | no positions on queries | 1.1 | position-use
minicpmv/resampler2_interpolated | no positions on queries | 1.3 | position-use
minicpmv/resampler2_interpolated | bicubic with a = -0.5 | 0.0094 | interpolation
minicpmv/resampler45_temporal | id -1 taken for id 0 | 0.16 | time-embedding
aurora/resampler_ln_k_q | keys and queries normed in every layer | 0.21 | norm-extra
aurora/resampler_ln_k_q | keys and queries normed with the layers' epsilon | 0.0088 | layer-norm-eps
aurora/resampler_no_residual | no residual of the MLP either | 1 | mlp-residual
aurora/resampler | norms before attention and MLP | 0.82 | norm-after
aurora/resampler_ln_k_q | norms before attention and MLP | 0.78 | norm-after
aurora/resampler_no_residual | norms before attention and MLP | 0.98 | norm-after
aurora/resampler_one_token | norms before attention and MLP | 0.55 | norm-after
perceiver-ar-pytorch/logits | rotary of queries counted from 0 | 0.25 | rotary
perceiver-ar-pytorch/loss | rotary of queries counted from 0 | 0.086 | rotary
perceiver-ar-pytorch/one_latent | rotary of queries counted from 0 | 0.084 | rotary
perceiver-ar-pytorch/prefix_mask | rotary of queries counted from 0 | 0.53 | rotary
perceiver-ar-pytorch/logits | interleaved rotary pairs | 0.33 | rotary
perceiver-ar-pytorch/loss | interleaved rotary pairs | 0.031 | rotary
perceiver-ar-pytorch/one_latent | interleaved rotary pairs | 0.12 | rotary
perceiver-ar-pytorch/prefix_mask | interleaved rotary pairs | 0.41 | rotary
perceiver-ar-pytorch/logits | neighbours rotated by the angles of halves | 0.21 | rotary
perceiver-ar-pytorch/loss | neighbours rotated by the angles of halves | 0.0043 | rotary
perceiver-ar-pytorch/one_latent | neighbours rotated by the angles of halves | 0.37 | rotary
perceiver-ar-pytorch/prefix_mask | neighbours rotated by the angles of halves | 0.41 | rotary
perceiver-ar-pytorch/logits | prefix normalised by the norm of latents | 0.21 | norm-shared
perceiver-ar-pytorch/loss | prefix normalised by the norm of latents | 0.03 | norm-shared
perceiver-ar-pytorch/one_latent | prefix normalised by the norm of latents | 0.23 | norm-shared
perceiver-ar-pytorch/prefix_mask | prefix normalised by the norm of latents | 0.12 | norm-shared
perceiver-ar-pytorch/logits | a final layer norm | 0.77 | final-norm norm-extra
perceiver-ar-pytorch/loss | a final layer norm | 0.49 | final-norm norm-extra
perceiver-ar-pytorch/one_latent | a final layer norm | 0.66 | final-norm norm-extra
perceiver-ar-pytorch/prefix_mask | a final layer norm | 0.85 | final-norm norm-extra
perceiver-ar-pytorch/loss | label 0 counted | 0.013 | loss
nemo/perceiver_params | padding filled | 0.22 | fully-masked-row
nemo/perceiver_bridge | no residual around a pair of blocks | 0.88 | query-residual
nemo/perceiver_params | no residual around a pair of blocks | 0.62 | query-residual
nemo/perceiver_pre_ln_causal | no residual around a pair of blocks | 0.5 | query-residual
nemo/perceiver_pre_ln_causal | tanh GELU | 0.00011 | activation
ip-adapter/resampler_pos_emb | positions one later | 0.46 | position-use
ip-adapter/resampler_pos_emb | positions in reverse | 0.57 | position-use
ip-adapter/resampler_plain | weights of latents zero | 0.65 | latents-not-in-keys
timm/pool_map | the activation once more | 0.52 | activation
open-clip/pooler | keys of un-normed tokens | 0.41 | norm-missing
open-clip/pooler | values of un-normed tokens | 0.39 | norm-missing
open-clip/pooler_packed | the norm of queries for tokens | 0.47 | norm-shared
open-clip/pooler_packed | keys, queries, values | 1.3 | key-value-swapped
open-clip/pooler_packed | values, keys, queries | 1.8 | key-value-swapped
open-clip/pooler_packed | keys, values, queries | 2.1 | key-value-swapped
open-clip/pooler_packed | (h 3 d) | 1.7 | head-layout
open-clip/pooler_packed | (h d 3) | 2 | head-layout
aurora/resampler | the layer's input added to the MLP's output | 0.69 | mlp-residual
perceiver-ar-pytorch/logits | embeddings times the square root of their width | 0.76 | embedding-scale
""")

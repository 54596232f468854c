"""What each model computes, in the order of the trace, as text that reads as pseudocode.

A line `name := value` is a traced point, under its place: inside a routine names are those after the place, and "." is
the place's own. `? condition` at its end: where there is that point. `@routine place | ...` computes a routine at a
place. `<block>` and so on are numbers, `<modality>` a name; what is in brackets is left out where there is one alone.
"""

from __future__ import annotations

ROUTINES: dict[str, tuple[str, str]] = {
    "attention": (
        "attention(x, z, mask, bias): x (..., N, C), z (..., M, C'); H heads, side by side along channels",
        """
attention.query := x Wq + bq
attention.query_norm := of each head, norm ? qk_norm
attention.key := z Wk + bk
attention.value := z Wv + bv
attention.key_norm := of each head, norm ? qk_norm
@scores . | of these
""",
    ),
    "keys_first": (
        "keys_first(x, z, mask, bias): the same, in another order",
        """
attention.key := z Wk + bk
attention.value := z Wv + bv
attention.key_norm := of each head, norm ? qk_norm
attention.query := x Wq + bq
attention.query_norm := of each head, norm ? qk_norm
@scores . | of these
""",
    ),
    "scores": (
        "scores(q, k, v, mask, bias): split into heads, head h of d channels being channels h d to (h + 1) d - 1",
        """
of each head: logits = scale q k^T + bias, -infinity where mask is False; scale is 1 / sqrt(d) unless given
attention.weights := softmax of the logits over keys; a row without any key as masked_rows says
attention.softmax := the same with such rows uniform ? there is a mask, and masked_rows is "zero"
attention.mixed := weights v, heads side by side
attention := mixed Wo + bo
""",
    ),
    "mlp": (
        "mlp(x): x (..., D), K channels inside",
        """
mlp.hidden := x W1 + b1
mlp.gate := x Wg + bg ? gated_mlp
mlp.gate_activation := activation(mlp.gate) ? gated_mlp
mlp.activation := activation(mlp.hidden), or mlp.gate_activation mlp.hidden where it is gated
mlp := mlp.activation W2 + b2
""",
    ),
    "cross": (
        "cross(x, z, mask, bias): a cross-attention",
        """
query_norm := norm(x)
key_value_norm := norm(z)
@attention . | of query_norm and key_value_norm
attention_residual := x + attention, the x of what follows; without query_residual x is attention ? query_residual
mlp_norm := norm(x)
@mlp . | of mlp_norm
. := x + mlp
""",
    ),
    "self": (
        "self(x, mask, bias): a self-attention",
        """
norm := norm(x)
@attention . | of norm and norm
attention_residual := x + attention, the x of what follows ? query_residual
mlp_norm := norm(x)
@mlp . | of mlp_norm
. := x + mlp
""",
    ),
    "causal_cross": (
        "causal_cross(x, z, mask): Perceiver AR's cross-attention; Rotary turns queries and keys by their places",
        """
key_value_norm := norm(z)
for inputs, and apart from them with own_keys "queries" the latents' own:
    attention.key := of key_value_norm, or of query_norm for own ones, Wk + bk
    attention.value := likewise, Wv + bv
query_norm := norm(x)
attention.query := query_norm Wq + bq
@scores . | of these
attention_residual := x + attention, the x of what follows ? query_residual
mlp_norm := norm(x)
@mlp . | of mlp_norm
. := x + mlp
""",
    ),
    "causal_self": (
        "causal_self(x, mask): Perceiver AR's self-attention; Rotary likewise",
        """
norm := norm(x)
@keys_first . | of norm and norm
attention_residual := x + attention, the x of what follows
mlp_norm := norm(x)
@mlp . | of mlp_norm
. := x + mlp
""",
    ),
    "elements": (
        "elements(inputs): what the encoder attends to, of one modality",
        """
embedding := rows of the embedding of the tokens ? TextInput
for each layer of a ConvStem:
    <layer>.convolution := 7x7 convolution of stride 2, without bias
    <layer>.norm := batch norm; then ReLU, and 3x3 max-pooling of stride 2 ? batch_norm
stem := after all of them ? ConvStem
linear := patches W + b; patches are blocks of pixels, channels in the order (dt, dy, dx, c) ? Patches with linear
features := pixels, patches, or what comes of them, on one axis ? GridInput
grid := from -1 to 1 along each axis, both ends included; -1 for an axis of one place ? FourierPositions, without pos
positions := Fourier features of the grid, or rows of the table ? not of vectors and classes
projected_positions := positions W + b ? ProjectedPositions
for each of position_layers:
    position_layers.<layer> := positions W + b, added to positions; ReLU of the sum after all but the last
. := features and positions side by side, or added; tokens and positions added; points' Fourier features alone
""",
    ),
    "queries": (
        "queries(): what the decoder asks, of one modality",
        """
grid := of index_dims, as for elements; single points by subsampling ? FourierPositions
positions := Fourier features of the grid, or rows of the table ? PositionQueries
projected_positions := positions W + b ? ProjectedPositions
""",
    ),
    "results": (
        "results(x): what the postprocessor makes, of one modality",
        """
linear := x W + b ? ProjectionOutput, ClassificationOutput, AudioOutput
for each layer of an ImageOutput "conv":
    upsample.<layer> := transposed convolution with bias; ReLU after all but the last
upsample := after all of them ? ImageOutput "conv"
. := on the grid, after ImageOutput's linear map; the first output alone (ClassificationOutput); x E^T + b (its table E)
""",
    ),
}
"""By name: how it is called, and its lines."""

MODELS: dict[str, tuple[str, str]] = {
    "PerceiverIO": (
        "Perceiver and Perceiver IO",
        """
@elements input | of inputs, where there is one modality
for each modality, in the order of names:
    @elements input.<modality> | of its inputs
    input.<modality>.padding := a trained vector that widens it to the common width ? several modalities
    input.<modality>.mask := a trained vector in place of masked elements ? mask_probabilities
    input.<modality>.padded := elements and padding side by side, masked ones replaced
input := all modalities one after the other ? several modalities
encoder.latents := the learned latents, or those given
for each of blocks:
    if block < cross_attends:
        @cross encoder.cross_attention[.<block>] | of latents and input, with mask and bias
    for each of layers:
        @self encoder.blocks.<block>.<layer> | of latents
encoder := latents
decoder.mean := the mean over latents ? ProjectionDecoder
@queries decoder.queries | where there is one modality; InputQueries are input
for each modality, in the order of names:
    @queries decoder.queries.<modality> | of its outputs
    decoder.queries.<modality>.padding := a trained vector that widens them to the common width ? several modalities
    decoder.queries.<modality>.own := before that
    decoder.queries.<modality> := own and padding side by side
decoder.queries := all of them ? not ProjectionDecoder
@cross decoder.cross_attention | of queries and latents
decoder.output := x W + b ? outputs
decoder := decoder.output, on its grid and divided by rescale (GridDecoder), or of one query alone; decoder.mean W + b
for each modality, in the order of names:
    @results output.<modality> | of its outputs
@results output | where there is one modality
""",
    ),
    "PerceiverResampler": (
        "Flamingo's Perceiver Resampler",
        """
x = features + time_embedding of the frame + media_embedding of the medium, where there are such
of T frames, where the table has F rows: row i of it for frame i if T <= F; otherwise what lies at i (F - 1) / (T - 1),
    linear between the two rows beside it
resampler.features := x with frames and tokens on one axis, or with latents_per "frame" tokens alone
resampler.latents := the learned latents, for each medium (or frame)
for each of layers:
    resampler.layers.<layer>.features_norm := norm(features)
    resampler.layers.<layer>.latents_norm := norm(latents)
    @attention resampler.layers.<layer> | of latents_norm and (features_norm, latents_norm) one after the other, masked
    resampler.layers.<layer>.attention_residual := latents + attention
    resampler.layers.<layer>.mlp_norm := norm(attention_residual)
    @mlp resampler.layers.<layer> | of mlp_norm
    resampler.layers.<layer> := attention_residual + mlp, the latents of what follows
resampler := norm(latents)
""",
    ),
    "GatedLayers": (
        "Flamingo's gated cross-attention",
        """
number of each token: how many tags (locations) up to and with it
mask: "immediate" the medium of that number, "all" those up to it; a token of number 0 sees none
for each block: (of GatedCrossAttention alone, names are without gated.<block>)
    gated.<block>.norm := norm(text)
    @keys_first gated.<block> | of norm and media, all tokens on one axis
    gated.<block>.attention_seen := 0 for tokens before any medium ? there are locations
    gated.<block>.attention_gated := tanh(attention_gate) attention
    gated.<block>.attention_residual := text + attention_gated
    gated.<block>.mlp_norm := norm(attention_residual)
    @mlp gated.<block> | of mlp_norm
    gated.<block>.mlp_gated := tanh(mlp_gate) mlp
    gated.<block> := attention_residual + mlp_gated, the text of what follows
""",
    ),
    "PerceiverAR": (
        "Perceiver AR",
        """
place of each token: its number, padding on the left not counted
embedding := rows of the embedding of the tokens
positions := rows of the table of positions at their places ? position_table
input := embedding + positions
latents := input Wz + bz of the tokens from prefix on, or these themselves
for each of layers, and once after them:
    if it is in cross_attends:
        @causal_cross cross_attention.<number> | of latents and input: latent i sees real inputs j <= i
    @causal_self layers.<layer> | of latents: latent i sees latents j <= i; not after the last
final := norm(latents), or these themselves
logits := final Wy + by
""",
    ),
    "Resampler": (
        "Resamplers of one set of features",
        """
resampler.positions := the first S rows of the table, added to the features ? places
resampler.projected := features W + b ? features
resampler.features := the same with all axes before S as one
resampler.pooled.norm := norm(the mean of features over S) ? pooled
resampler.pooled.linear := pooled.norm W + b ? pooled
resampler.pooled := the same as rows of D channels ? pooled
resampler.latents := pooled rows, then the learned latents, for each set; or those given
for each of layers:
    resampler.layers.<layer>.features_norm := norm(features) ? norms "before"
    resampler.layers.<layer>.latents_norm := norm(latents) ? norms "before"
    @attention resampler.layers.<layer> | of latents_norm and keys(latents_norm, features_norm), masked
    resampler.layers.<layer>.attention_residual := latents + attention
    resampler.layers.<layer>.mlp_norm := norm(attention_residual) ? norms "before"
    @mlp resampler.layers.<layer> | of mlp_norm
    resampler.layers.<layer> := attention_residual + mlp, the latents of what follows
resampler.output := latents W + b ? outputs
resampler := norm(latents)
keys(x, z): z, then x, one after the other; x first with latents_first; z alone without latents_in_keys
what norms "none" leaves out is taken as it is
""",
    ),
    "AttentionPool": (
        "Attention pooling",
        """
x = features + positions, with places
pool.projected := x W, and + b with projection "affine" ? projection
pool.features_norm := norm(x) ? norms "before"
pool.latents_norm := norm(latents) ? norms "before"
q = latents_norm + query_positions, the same for each example
@attention pool | of q and keys(q, features_norm + key_positions); values are of keys(q, features_norm)
pool.mlp_norm := norm(attention) ? hidden, with mlp_norms "before"
@mlp pool | of mlp_norm, with hidden
pool := attention + mlp, the x of what follows, which without hidden is attention ? hidden
pool.norm := norm(x) ? end "norm"
pool.output := x W ? last
pool := take of x: all rows, the first one, or their mean
keys(x, z): z, or with latents_in_keys z, then x, one after the other; x first with latents_first
what norms "none" leaves out is taken as it is
""",
    ),
    "LatentAttention": (
        "The attention of a resampler's layer",
        """
features_norm := norm(features) ? norms "before"
latents_norm := norm(x) ? norms "before"
@attention . | of latents_norm and keys(latents_norm, features_norm), masked; the result
keys(x, z): z, then x, one after the other; x first with latents_first; z alone without latents_in_keys
""",
    ),
    "CrossAttention": (
        "A cross-attention alone",
        """
query_norm := norm(x) ? norms "before"
key_value_norm := norm(z) ? context_norm
@attention . | of query_norm, x without it, and key_value_norm, z without it
norm := norm(attention), which takes the place of attention ? norms "after"
attention_residual := x + attention, the x of what follows; without query_residual x is attention ? query_residual
norm := norm(x), the x of what follows ? norms "around"
mlp_norm := norm(x) ? norms "before", with feed_forward
@mlp . | of mlp_norm, x without it, with feed_forward
mlp_norm := norm(mlp), and x + that is the result; "around": norm(x + mlp), the result ? norms "after" or "around"
else the result is x + mlp, without feed_forward x
""",
    ),
    "SelfAttention": (
        "A self-attention alone",
        """
norm := norm(x) ? norms "before"
@attention . | of norm and norm, x without it
norm := norm(attention), which takes the place of attention ? norms "after"
attention_residual := x + attention, the x of what follows; without query_residual x is attention ? query_residual
norm := norm(x), the x of what follows ? norms "around"
mlp_norm := norm(x) ? norms "before", with feed_forward
@mlp . | of mlp_norm, x without it, with feed_forward
mlp_norm := norm(mlp), and x + that is the result; "around": norm(x + mlp), the result ? norms "after" or "around"
else the result is x + mlp, without feed_forward x
""",
    ),
}
"""By class: the title of its section, and its lines."""

/* The encoder of Perceiver and Perceiver IO in C99, made with exported vectors as the only oracle; see PORTING.md.

       cc -std=c99 -O2 -o encoder encoder.c -lm
       ./encoder CASE.safetensors [ANSWER.safetensors]
       ./encoder PROBE.safetensors [WEIGHTS.safetensors]

   Runs what the case is of (an operation, or a PerceiverIO that is an encoder alone), compares every point that it
   computes, and writes the case with its own outputs and traced values for `perceiver-ref check` and `diagnose`.
   Exit codes: 0 all agree, 1 something differs, 2 the case cannot be run. With -Dreal=float it computes in float32.
*/

#include "vectors.h"

#include "probes.h"

/* ---- The operations, in the order in which they were ported. */

/* y = (x - mean) / sqrt(variance + eps) * scale + offset over the last axis; the variance is the biased one. */
static Array layer_norm(Array x, Array scale, Array offset, double eps) {
    Array y = array(x.axes, x.shape);
    long d = last(x);
    for (long row = 0; row < size(x); row += d) {
        const real *in = x.values + row;
        real mean = 0, variance = 0;
        for (long i = 0; i < d; i++) mean += in[i] / d;
        for (long i = 0; i < d; i++) variance += (in[i] - mean) * (in[i] - mean) / d;
        for (long i = 0; i < d; i++)
            y.values[row + i] = (in[i] - mean) / (real)sqrt(variance + eps) * scale.values[i] + offset.values[i];
    }
    return y;
}

/* y = x W + b: x (..., D), weight (D, E), bias (E,) or none -> (..., E). */
static Array linear(Array x, Array weight, Array bias) {
    long d = last(x), e = weight.shape[1];
    Array y = x;
    if (weight.shape[0] != d) fail("a weight of (%ld, %ld) for %ld channels", weight.shape[0], e, d);
    y.shape[x.axes - 1] = e;
    y = array(y.axes, y.shape);
    for (long row = 0; row < size(x) / d; row++)
        for (long j = 0; j < e; j++) {
            real sum = bias.values ? bias.values[j] : 0;
            for (long i = 0; i < d; i++) sum += x.values[row * d + i] * weight.values[i * e + j];
            y.values[row * e + j] = sum;
        }
    return y;
}

static real gelu_erf(real x) { return x * (1 + (real)erf(x / sqrt(2))) / 2; }

static real gelu_tanh(real x) { return x * (1 + (real)tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x))) / 2; }

static Array each(real (*function)(real), Array x) {
    Array y = array(x.axes, x.shape);
    for (long i = 0; i < size(x); i++) y.values[i] = function(x.values[i]);
    return y;
}

/* The element of a mask or bias at (b, h, n, m), axes of length 1 standing for all. */
static real at(Array x, long b, long h, long n, long m) {
    long index[4] = {b, h, n, m}, place = 0;
    for (int i = 0; i < 4; i++) place = place * x.shape[i] + (x.shape[i] == 1 ? 0 : index[i]);
    return x.values[place];
}

typedef struct {
    double scale; /* 0: 1 / sqrt(d) */
    int uniform;  /* what a row without keys gives: the average of all values, or zeros */
} AttentionOptions;

static int averages(const char *object) { /* by its "masked_rows" */
    return is(object, "masked_rows", "uniform") || is(object, "masked_rows", "added");
}

/* softmax(scale q k^T + bias) over the keys that the mask leaves: (B, H, N, d), (B, H, M, d) -> (B, H, N, M). */
static Array attention_weights(Array q, Array k, Array mask, Array bias, AttentionOptions options) {
    long d = last(q), queries = q.shape[2], keys = k.shape[2];
    Array w = array(4, (long[]){q.shape[0], q.shape[1], queries, keys});
    double scale = options.scale ? options.scale : 1 / sqrt(d);
    for (long row = 0; row < size(w) / keys; row++) {
        long n = row % queries, h = row / queries % q.shape[1], b = row / queries / q.shape[1];
        const real *query = q.values + row * d, *key = k.values + row / queries * keys * d;
        real *out = w.values + row * keys, most = 0, sum = 0;
        int seen = 0;
        for (long m = 0; m < keys; m++) {
            if (mask.values && !at(mask, b, h, n, m)) continue;
            real dot = 0;
            for (long i = 0; i < d; i++) dot += query[i] * key[m * d + i];
            out[m] = (real)(dot * scale) + (bias.values ? at(bias, b, h, n, m) : 0);
            if (!seen || out[m] > most) most = out[m];
            seen = 1;
        }
        for (long m = 0; m < keys; m++) {
            if (mask.values && !at(mask, b, h, n, m)) continue;
            sum += out[m] = (real)exp(out[m] - most);
        }
        for (long m = 0; m < keys; m++) out[m] = seen ? out[m] / sum : options.uniform ? (real)1 / keys : 0;
    }
    return w;
}

/* weights (B, H, N, M), v (B, H, M, e) -> (B, H, N, e). */
static Array mixed(Array w, Array v) {
    long queries = w.shape[2], keys = w.shape[3], e = last(v);
    Array y = array(4, (long[]){w.shape[0], w.shape[1], queries, e});
    for (long row = 0; row < size(w) / keys; row++)
        for (long m = 0; m < keys; m++)
            for (long i = 0; i < e; i++)
                y.values[row * e + i] += w.values[row * keys + m] * v.values[(row / queries * keys + m) * e + i];
    return y;
}

/* (B, N, H d) -> (B, H, N, d): each head has d channels side by side. */
static Array split_heads(Array x, long heads) {
    long n = x.shape[1], d = last(x) / heads;
    Array y = array(4, (long[]){x.shape[0], heads, n, d});
    for (long i = 0; i < size(x); i++) {
        long c = i % d, h = i / d % heads, row = i / d / heads % n, b = i / d / heads / n;
        y.values[((b * heads + h) * n + row) * d + c] = x.values[i];
    }
    return y;
}

/* (B, H, N, e) -> (B, N, H e). */
static Array join_heads(Array x) {
    long heads = x.shape[1], n = x.shape[2], e = x.shape[3];
    Array y = array(3, (long[]){x.shape[0], n, heads * e});
    for (long i = 0; i < size(y); i++) {
        long c = i % e, h = i / e % heads, row = i / e / heads % n, b = i / e / heads / n;
        y.values[i] = x.values[((b * heads + h) * n + row) * e + c];
    }
    return y;
}

static Array add(Array x, Array y) {
    Array z = array(x.axes, x.shape);
    for (long i = 0; i < size(x); i++) z.values[i] = x.values[i] + y.values[i];
    return z;
}

/* ---- The layers. `scope` begins the names of traced points, `path` those of parameters. */

static const char *config, *conventions;

static Array normed(const char *path, const char *name, Array x) {
    char inner[2 * NAME];
    snprintf(inner, sizeof inner, "%s%s/", path, name);
    double eps = number(conventions, "norm_eps", 1e-5);
    return layer_norm(x, needed("param/", inner, "scale"), needed("param/", inner, "offset"), eps);
}

static Array mapped(const char *path, const char *name, Array x) {
    char inner[2 * NAME];
    snprintf(inner, sizeof inner, "%s%s/", path, name);
    return linear(x, needed("param/", inner, "weight"), optional("param/", inner, "bias"));
}

/* x (B, N, D) attends to z (B, M, C) -> (B, N, D); mask (B, 1, 1, M). */
static Array attention(const char *scope, const char *path, Array x, Array z, long heads, Array mask) {
    AttentionOptions options = {0, averages(conventions)}, uniform = {0, 1};
    Array q = split_heads(point(scope, "attention.query", mapped(path, "attention/query", x)), heads);
    Array k = split_heads(point(scope, "attention.key", mapped(path, "attention/key", z)), heads);
    Array v = split_heads(point(scope, "attention.value", mapped(path, "attention/value", z)), heads);
    Array none = {0}, w = point(scope, "attention.weights", attention_weights(q, k, mask, none, options));
    if (mask.values && !options.uniform)
        point(scope, "attention.softmax", attention_weights(q, k, mask, none, uniform));
    Array y = point(scope, "attention.mixed", join_heads(mixed(w, v)));
    return point(scope, "attention", mapped(path, "attention/output", y));
}

/* x + mlp(norm(x)): what follows attention in both kinds of layers. */
static Array finished(const char *scope, const char *path, Array x) {
    Array y = point(scope, "mlp_norm", normed(path, "mlp_norm", x));
    y = point(scope, "mlp.hidden", mapped(path, "mlp/hidden", y));
    y = point(scope, "mlp.activation", each(is(conventions, "activation", "gelu_erf") ? gelu_erf : gelu_tanh, y));
    return point(scope, "", add(x, point(scope, "mlp", mapped(path, "mlp/output", y))));
}

static Array cross_attention(const char *scope, const char *path, Array x, Array z, Array mask) {
    Array q = point(scope, "query_norm", normed(path, "query_norm", x));
    Array kv = point(scope, "key_value_norm", normed(path, "key_value_norm", z));
    Array y = attention(scope, path, q, kv, (long)number(config, "cross_heads", 1), mask);
    if (number(config, "query_residual", 1)) y = point(scope, "attention_residual", add(x, y));
    return finished(scope, path, y);
}

static Array self_attention(const char *scope, const char *path, Array x) {
    Array none = {0}, y = point(scope, "norm", normed(path, "norm", x));
    y = attention(scope, path, y, y, (long)number(config, "self_heads", 8), none);
    return finished(scope, path, point(scope, "attention_residual", add(x, y)));
}

/* Whose weights a repetition uses: those of "all" repetitions are one, of the "later" ones, or of "none". */
static long weights_of(const char *sharing, long repetition) {
    return is(config, sharing, "all") ? 0 : is(config, sharing, "none") || !repetition ? repetition : 1;
}

/* inputs (B, M, C), mask (B, M) or none -> latents (B, N, D). */
static Array encoder(Array inputs, Array mask) {
    char scope[NAME], path[NAME];
    Array latents = needed("param/", "encoder/", "latents");
    Array x = array(3, (long[]){inputs.shape[0], latents.shape[0], latents.shape[1]});
    for (long i = 0; i < size(x); i++) x.values[i] = latents.values[i % size(latents)];
    point("encoder.", "latents", x);
    if (mask.values) {
        mask.axes = 4;
        mask.shape[3] = mask.shape[1], mask.shape[1] = mask.shape[2] = 1;
    }
    long blocks = (long)number(config, "blocks", 1), layers = (long)number(config, "layers", 6);
    long crosses = (long)number(config, "cross_attends", 1);
    for (long b = 0; b < blocks; b++) {
        if (b < crosses) {
            long own = weights_of("shared_cross", b);
            snprintf(scope, sizeof scope, "encoder.cross_attention.%ld.", b);
            if (crosses == 1) strcpy(scope, "encoder.cross_attention.");
            snprintf(path, sizeof path, "encoder/later_cross_attentions/%ld/", own - 1);
            if (!own) strcpy(path, "encoder/cross_attention/");
            x = cross_attention(scope, path, x, inputs, mask);
        }
        for (long i = 0; i < layers; i++) {
            long own = weights_of("shared_blocks", b);
            snprintf(scope, sizeof scope, "encoder.blocks.%ld.%ld.", b, i);
            snprintf(path, sizeof path, "encoder/later_blocks/%ld/%ld/", own - 1, i);
            if (!own) snprintf(path, sizeof path, "encoder/block/%ld/", i);
            x = self_attention(scope, path, x);
        }
    }
    return point("encoder.", "", x);
}

/* ---- Running a case, and holding the answers against it. */

static Array run(void) {
    const char *call = member(meta, "call");
    Array mask = optional("input/", "", "mask");
    if (is(meta, "class", "layer_norm"))
        return layer_norm(needed("input/", "", "x"), needed("input/", "", "scale"), needed("input/", "", "offset"),
                          number(call, "eps", 1e-5));
    if (is(meta, "class", "linear"))
        return linear(needed("input/", "", "x"), needed("input/", "", "weight"), optional("input/", "", "bias"));
    if (is(meta, "class", "gelu_erf")) return each(gelu_erf, needed("input/", "", "x"));
    if (is(meta, "class", "gelu_tanh")) return each(gelu_tanh, needed("input/", "", "x"));
    if (is(meta, "class", "attention") || is(meta, "class", "attention_weights")) {
        AttentionOptions options = {number(call, "scale", 0), averages(call)};
        Array q = needed("input/", "", "q"), k = needed("input/", "", "k");
        Array w = attention_weights(q, k, mask, optional("input/", "", "bias"), options);
        return is(meta, "class", "attention") ? mixed(w, needed("input/", "", "v")) : w;
    }
    config = member(member(meta, "config"), "encoder");
    conventions = member(config, "conventions");
    if (!is(meta, "class", "PerceiverIO") || !config) fail("the case is of nothing that is ported here");
    for (const char **part = (const char *[]){"preprocessor", "decoder", "postprocessor", NULL}; *part; part++)
        if (member(member(meta, "config"), *part)) fail("the %s is not ported", *part);
    if (!is(conventions, "activation", "gelu_erf") && !is(conventions, "activation", "gelu_tanh"))
        fail("the activation is not ported");
    if (!is(conventions, "norm", "layer")) fail("the norm is not ported");
    if (number(conventions, "gated_mlp", 0)) fail("the gated MLP is not ported");
    return encoder(needed("input/", "", "inputs"), mask);
}

int main(int count, char **arguments) {
    if (count != 2 && count != 3) fail("give a case, and where to write the answer: CASE.safetensors [ANSWER.safetensors]");
    read_case(arguments[1]);
    int is_probe = member(meta, "probe") != NULL;
    if (is_probe) make_arrays(count == 3 ? arguments[2] : NULL);
    answer("output/out", run());
    if (is_probe) return compare_samples() ? 1 : 0;
    int wrong = compare();
    if (count == 3) write_case(arguments[2]);
    return wrong ? 1 : 0;
}

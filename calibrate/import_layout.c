/* See calibrate/import_layout.h. */
#include "calibrate/import_layout.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_BYTES = 256,
    MAX_PATTERN_BYTES = 100,
    SHAPE_BYTES = 96,
    MAX_LAYERS = 1024, /* of a model */
    MAX_HEADS = 1 << 14
};

/* ---- names ----------------------------------------------------------------------------------- */

/* Where the layer's number stands in a pattern: the text before it and after it, and the least number of digits. */
typedef struct name_pattern {
    int n_before, n_digits;
    const char *before, *after;
} name_pattern;

static rb_status parse_pattern(name_pattern *out, const char *option, const char *text, rb_error *err)
{
    const char *percent = strchr(text, '%'), *at = percent ? percent + 1 : NULL;
    *out = (name_pattern){.before = text};
    if (at && *at == '0') {
        at++;
        if (*at >= '1' && *at <= '9') out->n_digits = *at++ - '0';
    }
    const bool is_pattern = at && *at == 'd' && !strchr(at, '%') && strlen(text) <= MAX_PATTERN_BYTES;
    if (!is_pattern)
        return rb_fail(err, RB_EUSAGE, "--%s is '%s', expected a name with one %%d or %%03d for the layer", option,
                       text);
    out->n_before = (int)(percent - text);
    out->after = at + 1;
    return RB_OK;
}

typedef struct name_patterns {
    name_pattern of[CAPTURE_N_VECTORS];
} name_patterns;

static rb_status parse_patterns(name_patterns *out, const import_options *opt, rb_error *err)
{
    rb_status st;
    RB_TRY(st, parse_pattern(&out->of[CAPTURE_Q], "q-name", opt->q_name, err), done);
    RB_TRY(st, parse_pattern(&out->of[CAPTURE_K], "k-name", opt->k_name, err), done);
    RB_TRY(st, parse_pattern(&out->of[CAPTURE_V], "v-name", opt->v_name, err), done);
done:
    return st;
}

static void layer_name(char name[NAME_BYTES], const name_pattern *pattern, int layer)
{
    snprintf(name, NAME_BYTES, "%.*s%0*d%.100s", pattern->n_before, pattern->before, pattern->n_digits, layer,
             pattern->after);
}

/* A tensor of a set: with the set's prefix, or without. Files that both sets share have the prefix for the test set. */
static bool find_in_set(const import_layout *layout, capture_set set, const char *name, import_tensor *out)
{
    const import_tensors *tensors = layout->set[set].tensors;
    char with_prefix[NAME_BYTES + 16];
    snprintf(with_prefix, sizeof with_prefix, "%s.%.255s", capture_set_name(set), name);
    if (import_tensors_find(tensors, with_prefix, out)) return true;
    if (set == CAPTURE_TEST && !layout->own[CAPTURE_TEST]) return false;
    return import_tensors_find(tensors, name, out);
}

/* ---- layers ---------------------------------------------------------------------------------- */

static bool has_vectors(const import_layout *layout, const name_patterns *patterns, capture_set set, int layer,
                        capture_vectors vectors)
{
    char name[NAME_BYTES];
    import_tensor found;
    layer_name(name, &patterns->of[vectors], layer);
    return find_in_set(layout, set, name, &found);
}

/* One more than the last layer of which there is anything, so that a hole is found. */
static int count_layers(const import_layout *layout, const name_patterns *patterns)
{
    for (int layer = MAX_LAYERS - 1; layer >= 0; layer--)
        for (int vectors = 0; vectors < CAPTURE_N_VECTORS; vectors++)
            if (has_vectors(layout, patterns, CAPTURE_CALIBRATION, layer, (capture_vectors)vectors)) return layer + 1;
    return 0;
}

static bool has_any_values(const import_layout *layout, const name_patterns *patterns)
{
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        for (int layer = 0; layer < layout->n_layers; layer++)
            if (has_vectors(layout, patterns, (capture_set)set, layer, CAPTURE_V)) return true;
    return false;
}

static void shape_text(char text[SHAPE_BYTES], const safetensor *tensor)
{
    int used = snprintf(text, SHAPE_BYTES, "[");
    for (int i = 0; i < tensor->rank && used < SHAPE_BYTES; i++)
        used += snprintf(text + used, (size_t)(SHAPE_BYTES - used), "%s%" PRId64, i ? ", " : "", tensor->shape[i]);
    if (used < SHAPE_BYTES) snprintf(text + used, (size_t)(SHAPE_BYTES - used), "]");
}

/* Sizes that the first tensor of a kind gives and all others must have; 0: not known yet. */
static rb_status check_shape(import_layout *layout, capture_set set, capture_vectors vectors, const import_tensor *from,
                             rb_error *err)
{
    int *n_heads = vectors == CAPTURE_Q ? &layout->n_q_heads : &layout->n_kv_heads;
    int *n_dims = vectors == CAPTURE_V ? &layout->value_dim : &layout->head_dim;
    int64_t *n_tokens = &layout->set[set].n_tokens;
    const safetensor *tensor = from->tensor;
    char shape[SHAPE_BYTES];
    shape_text(shape, tensor);
    if (tensor->rank != 3)
        return rb_fail(err, RB_EFORMAT, "%s: tensor \"%s\" has shape %s, expected [n_heads][n_tokens][head_dim]",
                       from->path, tensor->name, shape);
    const int64_t *dims = tensor->shape;
    if (dims[0] < 1 || dims[0] > MAX_HEADS || dims[1] < 1 || dims[1] > CAPTURE_MAX_TOKENS || dims[2] < 2
        || dims[2] > RB_MAX_HEAD_DIM)
        return rb_fail(err, RB_EFORMAT, "%s: tensor \"%s\" has shape %s, expected 1 to %d heads of 2 to %d dims",
                       from->path, tensor->name, shape, MAX_HEADS, RB_MAX_HEAD_DIM);
    if (*n_heads == 0) *n_heads = (int)dims[0];
    if (*n_tokens == 0) *n_tokens = dims[1];
    if (*n_dims == 0) *n_dims = (int)dims[2];
    if (dims[0] == *n_heads && dims[1] == *n_tokens && dims[2] == *n_dims) return RB_OK;
    return rb_fail(err, RB_EMISMATCH,
                   "%s: tensor \"%s\" has shape %s, expected [%d, %" PRId64 ", %d] ([n_heads][n_tokens][head_dim], as "
                   "the tensors before it)",
                   from->path, tensor->name, shape, *n_heads, *n_tokens, *n_dims);
}

static rb_status find_vectors(import_layout *layout, const name_patterns *patterns, capture_set set, int layer,
                              capture_vectors vectors, rb_error *err)
{
    import_tensor *out = &layout->set[set].vectors[layer * CAPTURE_N_VECTORS + (int)vectors];
    char name[NAME_BYTES];
    layer_name(name, &patterns->of[vectors], layer);
    if (!find_in_set(layout, set, name, out))
        return rb_fail(err, RB_EFORMAT,
                       "%s layer %d has no %s: no file has a tensor \"%s%s\", expected one for each of layers 0 to %d",
                       capture_set_name(set), layer, capture_vectors_name(vectors),
                       set == CAPTURE_TEST && !layout->own[CAPTURE_TEST] ? "test." : "", name, layout->n_layers - 1);
    import_tensors_mark(layout->set[set].tensors, out);
    return check_shape(layout, set, vectors, out, err);
}

static rb_status check_test_set(const import_layout *layout, const name_patterns *patterns, rb_error *err)
{
    for (int layer = 0; layer < layout->n_layers; layer++)
        for (int vectors = 0; vectors < CAPTURE_N_VECTORS; vectors++)
            if (has_vectors(layout, patterns, CAPTURE_TEST, layer, (capture_vectors)vectors)) return RB_OK;
    return rb_fail(err, RB_EFORMAT,
                   "no test set: no tensor is called \"test.\" and a layer's name; give --test or --n-test-tokens");
}

static rb_status find_set(import_layout *layout, const name_patterns *patterns, capture_set set, rb_error *err)
{
    import_set *into = &layout->set[set];
    const int n_vectors = layout->has_values ? CAPTURE_N_VECTORS : CAPTURE_V;
    rb_status st = set == CAPTURE_TEST ? check_test_set(layout, patterns, err) : RB_OK;
    if (st != RB_OK) return st;
    st = rb_alloc(&into->vectors, (size_t)layout->n_layers * CAPTURE_N_VECTORS, sizeof *into->vectors,
                  "tensors of the layers", err);
    for (int layer = 0; layer < layout->n_layers && st == RB_OK; layer++)
        for (int vectors = 0; vectors < n_vectors && st == RB_OK; vectors++)
            st = find_vectors(layout, patterns, set, layer, (capture_vectors)vectors, err);
    return st;
}

static rb_status find_tokens(import_layout *layout, capture_set set, const char *name, rb_error *err)
{
    import_set *into = &layout->set[set];
    if (!find_in_set(layout, set, name, &into->tokens)) {
        into->tokens = (import_tensor){0};
        return RB_OK;
    }
    import_tensors_mark(into->tensors, &into->tokens);
    const safetensor *tensor = into->tokens.tensor;
    if (tensor->rank == 1 && tensor->shape[0] == into->n_tokens) return RB_OK;
    char shape[SHAPE_BYTES];
    shape_text(shape, tensor);
    return rb_fail(err, RB_EMISMATCH, "%s: tensor \"%s\" has shape %s, expected [%" PRId64 "], an id a token",
                   into->tokens.path, tensor->name, shape, into->n_tokens);
}

/* ---- the two sets ---------------------------------------------------------------------------- */

/* Makes the last n_test tokens of the calibration set the test set. */
static rb_status split_set(import_layout *layout, const import_options *opt, rb_error *err)
{
    import_set *calibration = &layout->set[CAPTURE_CALIBRATION], *test = &layout->set[CAPTURE_TEST];
    const int64_t n_all = calibration->n_tokens, n_test = opt->n_test_tokens;
    if (n_test >= n_all)
        return rb_fail(err, RB_EINVAL,
                       "--n-test-tokens is %" PRId64 ", expected less than the %" PRId64 " tokens there", n_test,
                       n_all);
    calibration->n_tokens = n_all - n_test;
    if (opt->context > 0 && calibration->n_tokens % opt->context != 0)
        return rb_fail(err, RB_EINVAL,
                       "--n-test-tokens %" PRId64 " leaves %" PRId64 " calibration tokens, expected a multiple of "
                       "--context %" PRId64,
                       n_test, calibration->n_tokens, opt->context);
    *test = (import_set){
        .tensors = calibration->tensors, .tokens = calibration->tokens, .first = n_all - n_test, .n_tokens = n_test};
    const size_t n_vectors = (size_t)layout->n_layers * CAPTURE_N_VECTORS;
    const rb_status st = rb_alloc(&test->vectors, n_vectors, sizeof *test->vectors, "tensors of the layers", err);
    if (st == RB_OK) memcpy(test->vectors, calibration->vectors, n_vectors * sizeof *test->vectors);
    return st;
}

static rb_status open_files(import_layout *out, const rb_string_list *files, const import_options *opt, rb_error *err)
{
    rb_status st;
    RB_TRY(st, import_tensors_open(&out->own[CAPTURE_CALIBRATION], files, err), done);
    if (opt->tests.n > 0) RB_TRY(st, import_tensors_open(&out->own[CAPTURE_TEST], &opt->tests, err), done);
    out->set[CAPTURE_CALIBRATION].tensors = out->own[CAPTURE_CALIBRATION];
    out->set[CAPTURE_TEST].tensors = out->own[opt->tests.n > 0 ? CAPTURE_TEST : CAPTURE_CALIBRATION];
done:
    return st;
}

rb_status import_layout_open(import_layout *out, const rb_string_list *files, const import_options *opt, rb_error *err)
{
    name_patterns patterns;
    rb_status st;
    *out = (import_layout){0};
    RB_TRY(st, parse_patterns(&patterns, opt, err), done);
    RB_TRY(st, open_files(out, files, opt, err), done);
    out->n_layers = count_layers(out, &patterns);
    if (out->n_layers == 0) {
        st = rb_fail(err, RB_EFORMAT, "%s: no tensor is called as --q-name %s or --k-name %s say", files->at[0],
                     opt->q_name, opt->k_name);
        goto done;
    }
    out->has_values = has_any_values(out, &patterns);
    const bool is_split = opt->n_test_tokens > 0;
    for (int set = 0; set < (is_split ? CAPTURE_TEST : CAPTURE_N_SETS); set++) {
        RB_TRY(st, find_set(out, &patterns, (capture_set)set, err), done);
        RB_TRY(st, find_tokens(out, (capture_set)set, opt->tokens_name, err), done);
    }
    if (is_split) RB_TRY(st, split_set(out, opt, err), done);
done:
    return st;
}

void import_layout_free(import_layout *layout)
{
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        free(layout->set[set].vectors);
        import_tensors_close(layout->own[set]);
    }
    *layout = (import_layout){0};
}

bool import_layout_find(import_layout *layout, const char *name, import_tensor *out)
{
    if (!find_in_set(layout, CAPTURE_CALIBRATION, name, out)) return false;
    import_tensors_mark(layout->own[CAPTURE_CALIBRATION], out);
    return true;
}

int64_t import_layout_unread(const import_layout *layout, const char **first)
{
    const char *later;
    const int64_t n = import_tensors_unread(layout->own[CAPTURE_CALIBRATION], first);
    if (!layout->own[CAPTURE_TEST]) return n;
    const int64_t n_test = import_tensors_unread(layout->own[CAPTURE_TEST], &later);
    if (!*first) *first = later;
    return n + n_test;
}

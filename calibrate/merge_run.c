/* See calibrate/merge_run.h. It goes layer by layer: every part's vectors are read, the kept ones laid one after the
 * other, head by head, and the sums of the statistics taken in the order of the parts. */
#include "calibrate/merge_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "calibrate/capture_layout.h"
#include "calibrate/merge_parts.h"
#include "calibrate/merge_selection.h"
#include "calibrate/merge_statistics.h"
#include "core/message.h"
#include "texts/token_source.h"

/* Products of other hosts round otherwise; weights that differ show as more. */
static const double metric_tolerance = 1e-4;

typedef struct merging {
    const merge_options *options;
    const rb_string_list *paths;
    merge_parts parts;
    merge_selection kept[CAPTURE_N_SETS];
    capture_header header;           /* of the merged capture */
    int32_t *tokens[CAPTURE_N_SETS]; /* that it stores */
    float *part_vectors;             /* of the largest part, of q, k or v */
    float *vectors[CAPTURE_N_VECTORS];
    block_statistics sums, part_statistics;
    double seconds;
} merging;

static void free_merging(merging *m)
{
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        merge_selection_free(&m->kept[set]);
        free(m->tokens[set]);
    }
    for (int i = 0; i < CAPTURE_N_VECTORS; i++) free(m->vectors[i]);
    free(m->part_vectors);
    block_statistics_free(&m->sums);
    block_statistics_free(&m->part_statistics);
    merge_parts_free(&m->parts);
}

static const capture_header *part_header(const merging *m, int part)
{
    return capture_file_header(m->parts.at[part].file);
}

/* ---- before the pass ------------------------------------------------------------------------- */

/* A shard would be lost. */
static rb_status check_output_is_new(const merging *m, rb_error *err)
{
    struct stat output, input;
    if (m->options->max_tokens > 0 && m->options->every > 1)
        return rb_fail(err, RB_EUSAGE, "--max-tokens and --every are both given, expected one of them");
    if (stat(m->options->output, &output) != 0) return RB_OK;
    for (int i = 0; i < m->paths->n; i++)
        if (stat(m->paths->at[i], &input) == 0 && input.st_dev == output.st_dev && input.st_ino == output.st_ino)
            return rb_fail(err, RB_EINVAL, "-o %s is one of the captures to merge, expected another file",
                           m->options->output);
    return RB_OK;
}

/* All captures are open at once. libhdf5 says "not an HDF5 file" where it may open no more. */
static rb_status allow_open_files(int n_captures, rb_error *err)
{
    enum { N_OTHERS = 32 };
    struct rlimit limit;
    const rlim_t n_needed = (rlim_t)n_captures + N_OTHERS;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= n_needed) return RB_OK;
    limit.rlim_cur = n_needed;
    if (limit.rlim_max >= n_needed && setrlimit(RLIMIT_NOFILE, &limit) == 0) return RB_OK;
    return rb_fail(err, RB_EIO, "%d captures take %lld open files, the limit is %lld (ulimit -n)", n_captures,
                   (long long)n_needed, (long long)limit.rlim_max);
}

static rb_status select_tokens(merging *m, capture_set set, rb_error *err)
{
    text_facts *texts = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&texts, (size_t)m->parts.n, sizeof *texts, "texts", err), done);
    for (int part = 0; part < m->parts.n; part++) texts[part] = part_header(m, part)->text[set];
    st = merge_selection_make(&m->kept[set], texts, m->parts.n, m->options->max_tokens, m->options->every, err);
    if (st != RB_OK) st = rb_fail_in(err, st, "%s set", capture_set_name(set));
    else if (m->kept[set].n_left_out > 0)
        rb_message_warn("%lld %s tokens are not stored: they end a text in a sequence of less than %lld tokens, which "
                        "can only come last; statistics count them",
                        (long long)m->kept[set].n_left_out, capture_set_name(set), (long long)texts[0].context);
    else if (m->kept[set].n_tokens == 0)
        st = rb_fail(err, RB_EINVAL, "%s set: no whole sequence of %lld tokens", capture_set_name(set),
                     (long long)texts[0].context);
done:
    free(texts);
    return st;
}

static void fill_header(merging *m)
{
    m->header = *part_header(m, 0);
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        text_facts *text = &m->header.text[set];
        text->n_tokens = m->kept[set].n_tokens;
        text->tokens_sha256[0] = '\0';
        m->header.n_counted[set] = 0;
        for (int part = 0; part < m->parts.n; part++)
            m->header.n_counted[set] += capture_n_counted(part_header(m, part), (capture_set)set);
    }
}

/* All tokens of a set, part after part. */
static rb_status gather_tokens(int32_t **out, int64_t *n_out, const merging *m, capture_set set, rb_error *err)
{
    int64_t n = 0, at = 0;
    rb_status st;
    for (int part = 0; part < m->parts.n; part++) n += part_header(m, part)->text[set].n_tokens;
    RB_TRY(st, rb_alloc(out, (size_t)n, sizeof **out, "tokens", err), done);
    for (int part = 0; part < m->parts.n; part++) {
        RB_TRY(st, capture_read_tokens(m->parts.at[part].file, set, *out + at, err), done);
        at += part_header(m, part)->text[set].n_tokens;
    }
    *n_out = n;
done:
    return st;
}

static rb_status check_shard_tokens(const merging *m, capture_set set, const int32_t *tokens, int64_t n, rb_error *err)
{
    const char *expected = m->parts.at[0].part.tokens_sha256[set];
    char found[RB_SHA256_HEX];
    const rb_status st = rb_sha256_bytes(found, tokens, (size_t)n * sizeof *tokens, err);
    if (st != RB_OK || strcmp(found, expected) == 0) return st;
    return rb_fail(err, RB_EMISMATCH, "the shards' %s tokens have SHA-256 %s together, expected the run's %s",
                   capture_set_name(set), found, expected);
}

/* What is stored of all [of the parts in order]. */
static rb_status keep_tokens(merging *m, capture_set set, const int32_t *all, rb_error *err)
{
    const merge_selection *kept = &m->kept[set];
    int64_t at = 0, part_start = 0;
    int part = 0;
    const rb_status st = rb_alloc(&m->tokens[set], (size_t)kept->n_tokens, sizeof **m->tokens, "tokens", err);
    for (int64_t i = 0; i < kept->n_segments && st == RB_OK; i++) {
        const merge_segment *segment = &kept->segments[i];
        for (; part < segment->part; part++) part_start += part_header(m, part)->text[set].n_tokens;
        memcpy(m->tokens[set] + at, all + part_start + segment->first, (size_t)segment->n * sizeof *all);
        at += segment->n;
    }
    return st;
}

static rb_status read_tokens(merging *m, rb_error *err)
{
    int32_t *all[CAPTURE_N_SETS] = {NULL};
    int64_t n[CAPTURE_N_SETS];
    rb_status st;
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        RB_TRY(st, gather_tokens(&all[set], &n[set], m, (capture_set)set, err), done);
        if (m->parts.are_shards) RB_TRY(st, check_shard_tokens(m, (capture_set)set, all[set], n[set], err), done);
        RB_TRY(st, keep_tokens(m, (capture_set)set, all[set], err), done);
    }
    if (m->parts.are_shards || m->parts.n == 1) goto done; /* calibrate has checked what follows */
    st = tokens_check_disjoint(all[CAPTURE_CALIBRATION], n[CAPTURE_CALIBRATION], all[CAPTURE_TEST], n[CAPTURE_TEST],
                               err);
    if (st != RB_OK) st = rb_fail_in(err, st, "the captures together");
done:
    for (int set = 0; set < CAPTURE_N_SETS; set++) free(all[set]);
    return st;
}

static rb_status alloc_layer(merging *m, rb_error *err)
{
    const model_facts *model = &m->header.model;
    int64_t most = 0, most_of_part = 0;
    rb_status st = RB_OK;
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        if (m->kept[set].n_tokens > most) most = m->kept[set].n_tokens;
        for (int part = 0; part < m->parts.n; part++)
            if (part_header(m, part)->text[set].n_tokens > most_of_part)
                most_of_part = part_header(m, part)->text[set].n_tokens;
    }
    size_t largest = 0;
    for (int i = 0; i < capture_n_vectors(&m->header); i++) {
        const size_t row = (size_t)(i == CAPTURE_Q ? model->n_q_heads : model->n_kv_heads)
                           * (size_t)capture_vectors_dim(&m->header, (capture_vectors)i);
        RB_TRY(st, rb_alloc(&m->vectors[i], (size_t)most * row, sizeof(float), "vectors of a layer", err), done);
        if (row > largest) largest = row;
    }
    RB_TRY(st, rb_alloc(&m->part_vectors, (size_t)most_of_part * largest, sizeof(float), "vectors of a part", err),
           done);
    RB_TRY(st, block_statistics_create(&m->part_statistics, model, err), done);
done:
    return st;
}

/* ---- what is recorded ------------------------------------------------------------------------ */

/* {"shard"? or "options"?, "n_tokens", "n_test_tokens", "calibration_sha256"?, "test_sha256"?}: of shards the run's
 * options say the rest. No path, so that the order on the command line does not show. */
static rb_status part_to_json(cJSON **out, const merge_part *part, rb_error *err)
{
    const text_facts *text = capture_file_header(part->file)->text;
    cJSON *options = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    if (part->part.count > 0) RB_TRY(st, rb_json_add_number(*out, "shard", (double)part->part.index, err), done);
    RB_TRY(st, rb_json_add_number(*out, "n_tokens", (double)text[CAPTURE_CALIBRATION].n_tokens, err), done);
    RB_TRY(st, rb_json_add_number(*out, "n_test_tokens", (double)text[CAPTURE_TEST].n_tokens, err), done);
    if (part->part.count > 0) return RB_OK;
    RB_TRY(st, rb_json_add_string(*out, "calibration_sha256", text[CAPTURE_CALIBRATION].tokens_sha256, err), done);
    RB_TRY(st, rb_json_add_string(*out, "test_sha256", text[CAPTURE_TEST].tokens_sha256, err), done);
    options = cJSON_Duplicate(part->options, true);
    if (!options) st = rb_fail(err, RB_ENOMEM, "out of memory for JSON");
    else st = rb_json_add_item(*out, "options", &options, err);
done:
    return st;
}

static rb_status add_parts(cJSON *json, const merge_parts *parts, rb_error *err)
{
    cJSON *list = cJSON_CreateArray(), *item = NULL;
    rb_status st = list ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for JSON");
    for (int i = 0; i < parts->n && st == RB_OK; i++) {
        st = part_to_json(&item, &parts->at[i], err);
        if (st == RB_OK) st = rb_json_append(list, &item, err);
    }
    if (st == RB_OK) st = rb_json_add_item(json, "parts", &list, err);
    cJSON_Delete(item);
    cJSON_Delete(list);
    return st;
}

/* The run's options where there are shards, and the parts. */
static rb_status options_to_json(char **out, const merging *m, rb_error *err)
{
    cJSON *json = NULL;
    rb_status st;
    if (m->parts.are_shards) {
        json = cJSON_Duplicate(m->parts.at[0].options, true);
        st = json ? RB_OK : rb_fail(err, RB_ENOMEM, "out of memory for JSON");
    } else {
        st = rb_json_new_object(&json, err);
    }
    if (st != RB_OK) goto done;
    if (m->options->max_tokens > 0)
        RB_TRY(st, rb_json_add_number(json, "max_tokens", (double)m->options->max_tokens, err), done);
    if (m->options->every > 1) RB_TRY(st, rb_json_add_number(json, "every", (double)m->options->every, err), done);
    RB_TRY(st, add_parts(json, &m->parts, err), done);
    st = rb_json_print(out, json, err);
done:
    cJSON_Delete(json);
    return st;
}

/* ---- a layer --------------------------------------------------------------------------------- */

static rb_status read_part(merging *m, int part, capture_set set, int layer, capture_vectors vectors, rb_error *err)
{
    const capture_file *file = m->parts.at[part].file;
    return vectors == CAPTURE_Q   ? capture_read_q(file, set, layer, m->part_vectors, err)
           : vectors == CAPTURE_K ? capture_read_k(file, set, layer, m->part_vectors, err)
                                  : capture_read_v(file, set, layer, m->part_vectors, err);
}

/* [n_heads][n_part][dim] to its places in [n_heads][n_kept][dim]. *at: kept tokens of earlier parts; grows. */
static void lay_part(merging *m, int part, capture_set set, capture_vectors vectors, int64_t *segment, int64_t *at)
{
    const merge_selection *kept = &m->kept[set];
    int64_t dims[3];
    capture_vectors_dims(part_header(m, part), set, vectors, dims);
    for (; *segment < kept->n_segments && kept->segments[*segment].part == part; (*segment)++) {
        const merge_segment *s = &kept->segments[*segment];
        for (int64_t head = 0; head < dims[0]; head++)
            memcpy(m->vectors[vectors] + (head * kept->n_tokens + *at) * dims[2],
                   m->part_vectors + (head * dims[1] + s->first) * dims[2], (size_t)(s->n * dims[2]) * sizeof(float));
        *at += s->n;
    }
}

static rb_status merge_vectors(merging *m, capture_set set, int layer, capture_vectors vectors, rb_error *err)
{
    int64_t segment = 0, at = 0;
    rb_status st = RB_OK;
    for (int part = 0; part < m->parts.n && st == RB_OK; part++) {
        st = read_part(m, part, set, layer, vectors, err);
        if (st == RB_OK) lay_part(m, part, set, vectors, &segment, &at);
    }
    return st;
}

static rb_status merge_statistics(merging *m, capture_set set, int layer, rb_error *err)
{
    rb_status st;
    block_statistics_free(&m->sums);
    RB_TRY(st, block_statistics_create(&m->sums, &m->header.model, err), done);
    for (int part = 0; part < m->parts.n; part++) {
        RB_TRY(st, capture_read_statistics(m->parts.at[part].file, set, layer, &m->part_statistics, err), done);
        merge_statistics_add(&m->sums, &m->part_statistics, capture_n_counted(part_header(m, part), set));
    }
    merge_statistics_finish(&m->sums, m->header.n_counted[set]);
done:
    return st;
}

static rb_status merge_layer(merging *m, capture_writer *writer, capture_set set, int layer, rb_error *err)
{
    rb_status st;
    for (int i = 0; i < capture_n_vectors(&m->header); i++)
        RB_TRY(st, merge_vectors(m, set, layer, (capture_vectors)i, err), done);
    RB_TRY(st, merge_statistics(m, set, layer, err), done);
    st = capture_write_layer(writer, set, layer, m->vectors[CAPTURE_Q], m->vectors[CAPTURE_K], m->vectors[CAPTURE_V],
                             &m->sums, err);
done:
    return st;
}

/* ---- what follows the logits ------------------------------------------------------------------ */

/* The first part's, which the others' must be but for rounding. */
static rb_status merge_metric(const merging *m, capture_writer *writer, int layer, float *metric, float *other,
                              rb_error *err)
{
    int64_t dims[3];
    double largest = 0.0;
    rb_status st;
    capture_output_metric_dims(&m->header, dims);
    const int64_t n = dims[0] * dims[1] * dims[2];
    RB_TRY(st, capture_read_output_metric(m->parts.at[0].file, layer, metric, err), done);
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)metric[i]));
    for (int part = 1; part < m->parts.n; part++) {
        double difference = 0.0;
        RB_TRY(st, capture_read_output_metric(m->parts.at[part].file, layer, other, err), done);
        for (int64_t i = 0; i < n; i++) difference = fmax(difference, fabs((double)metric[i] - (double)other[i]));
        if (difference > metric_tolerance * largest)
            return rb_fail(
                err, RB_EMISMATCH,
                "%s and %s: output metrics of layer %d differ by %.3g of the largest entry, expected at most "
                "%g: other weights",
                capture_file_path(m->parts.at[0].file), capture_file_path(m->parts.at[part].file), layer,
                difference / largest, metric_tolerance);
    }
    st = capture_write_output_metric(writer, layer, metric, err);
done:
    return st;
}

static rb_status merge_metrics(const merging *m, capture_writer *writer, rb_error *err)
{
    float *metric = NULL, *other = NULL;
    int64_t dims[3];
    rb_status st;
    capture_output_metric_dims(&m->header, dims);
    const size_t n = (size_t)(dims[0] * dims[1]) * (size_t)dims[2];
    RB_TRY(st, rb_alloc(&metric, n, sizeof *metric, "output metric", err), done);
    RB_TRY(st, rb_alloc(&other, n, sizeof *other, "output metric", err), done);
    for (int layer = 0; layer < m->header.model.n_layers; layer++)
        RB_TRY(st, merge_metric(m, writer, layer, metric, other, err), done);
done:
    free(metric);
    free(other);
    return st;
}

static rb_status merge_residual_energies(const merging *m, capture_writer *writer, rb_error *err)
{
    const int n_layers = m->header.model.n_layers, n_parts = m->parts.n;
    double *energies = NULL, *of_layer = NULL; /* [n_parts][n_layers], [n_parts] */
    int64_t *n_tokens = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&energies, (size_t)n_parts * (size_t)n_layers, sizeof *energies, "energies", err), done);
    RB_TRY(st, rb_alloc(&of_layer, (size_t)n_parts, sizeof *of_layer, "energies", err), done);
    RB_TRY(st, rb_alloc(&n_tokens, (size_t)n_parts, sizeof *n_tokens, "energies", err), done);
    for (int part = 0; part < n_parts; part++) {
        n_tokens[part] = capture_n_counted(part_header(m, part), CAPTURE_CALIBRATION);
        RB_TRY(st, capture_read_residual_energy(m->parts.at[part].file, energies + (int64_t)part * n_layers, err),
               done);
    }
    for (int layer = 0; layer < n_layers; layer++) {
        for (int part = 0; part < n_parts; part++) of_layer[part] = energies[(int64_t)part * n_layers + layer];
        capture_set_residual_energy(writer, layer, merge_residual_energy(of_layer, n_tokens, n_parts));
    }
done:
    free(energies);
    free(of_layer);
    free(n_tokens);
    return st;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static rb_status write_merged(merging *m, rb_error *err)
{
    const int32_t *tokens[CAPTURE_N_SETS] = {m->tokens[CAPTURE_CALIBRATION], m->tokens[CAPTURE_TEST]};
    capture_writer *writer = NULL;
    char *options_json = NULL, detail[32];
    rb_progress progress;
    rb_status st;
    RB_TRY(st, options_to_json(&options_json, m, err), done);
    RB_TRY(st, capture_create(&writer, m->options->output, &m->header, tokens, options_json, err), done);
    rb_progress_start(&progress, "merge", m->header.model.n_layers);
    for (int layer = 0; layer < m->header.model.n_layers && st == RB_OK; layer++) {
        for (int set = 0; set < CAPTURE_N_SETS && st == RB_OK; set++)
            st = merge_layer(m, writer, (capture_set)set, layer, err);
        snprintf(detail, sizeof detail, "layer %d", layer);
        if (st == RB_OK) rb_progress_step(&progress, detail);
    }
    rb_progress_finish(&progress);
    if (st != RB_OK) goto done;
    if (m->header.output.has_metric) RB_TRY(st, merge_metrics(m, writer, err), done);
    if (m->header.output.is_known) RB_TRY(st, merge_residual_energies(m, writer, err), done);
    st = capture_publish(writer, err);
done:
    capture_writer_free(writer);
    free(options_json);
    return st;
}

static void print_result(const merging *m)
{
    const model_facts *model = &m->header.model;
    printf("model        %s, %d layers, %d query heads and %d KV heads of %d dims\n", model->model_type,
           model->n_layers, model->n_q_heads, model->n_kv_heads, model->head_dim);
    printf("parts        %d %s\n", m->parts.n,
           m->parts.are_shards ? "shards of one run"
           : m->parts.n == 1   ? "capture"
                               : "captures of different texts");
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        printf("%-12s %lld %s tokens in sequences of %lld, statistics of %lld\n", set ? "" : "tokens",
               (long long)m->header.text[set].n_tokens, capture_set_name((capture_set)set),
               (long long)m->header.text[set].context, (long long)m->header.n_counted[set]);
    printf("capture      %s, %.1f s\n", rb_shown(m->options->output).text, m->seconds);
}

static rb_status text_to_json(cJSON **out, const merging *m, capture_set set, rb_error *err)
{
    rb_status st;
    RB_TRY(st, rb_json_new_object(out, err), done);
    RB_TRY(st, rb_json_add_number(*out, "n_tokens", (double)m->header.text[set].n_tokens, err), done);
    RB_TRY(st, rb_json_add_number(*out, "n_counted", (double)m->header.n_counted[set], err), done);
    RB_TRY(st, rb_json_add_number(*out, "context", (double)m->header.text[set].context, err), done);
done:
    return st;
}

static rb_status print_json(const merging *m, rb_error *err)
{
    cJSON *json = NULL, *item = NULL;
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "schema", "ropebits-merge-result", err), done);
    RB_TRY(st, rb_json_add_number(json, "version", 1, err), done);
    RB_TRY(st, model_facts_to_json(&item, &m->header.model, err), done);
    RB_TRY(st, rb_json_add_item(json, "model", &item, err), done);
    RB_TRY(st, rb_json_add_bool(json, "are_shards", m->parts.are_shards, err), done);
    RB_TRY(st, add_parts(json, &m->parts, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++) {
        RB_TRY(st, text_to_json(&item, m, (capture_set)set, err), done);
        RB_TRY(st, rb_json_add_item(json, capture_set_name((capture_set)set), &item, err), done);
    }
    RB_TRY(st, rb_json_add_string(json, "capture", m->options->output, err), done);
    st = rb_json_put(json, err);
done:
    cJSON_Delete(item);
    cJSON_Delete(json);
    return st;
}

rb_status merge_run(const rb_run_args *args, rb_error *err)
{
    merging m = {.options = args->context, .paths = args->positionals};
    const double started_s = rb_now_s();
    rb_status st;
    RB_TRY(st, check_output_is_new(&m, err), done);
    RB_TRY(st, allow_open_files(m.paths->n, err), done);
    RB_TRY(st, merge_parts_open(&m.parts, m.paths, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++) RB_TRY(st, select_tokens(&m, (capture_set)set, err), done);
    fill_header(&m);
    RB_TRY(st, read_tokens(&m, err), done);
    RB_TRY(st, alloc_layer(&m, err), done);
    RB_TRY(st, write_merged(&m, err), done);
    m.seconds = rb_now_s() - started_s;
    if (args->common->json) st = print_json(&m, err);
    else print_result(&m);
done:
    free_merging(&m);
    return st;
}

/* ropebits-encode: the codes of given vectors by a plan, for authors of other readers and encoders. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/capture_file.h"
#include "core/program.h"
#include "export/encode_output.h"
#include "export/tensor_load.h"
#include "plan/plan_read.h"

typedef struct encode_options {
    int64_t layer, kv_head, first, n_vectors;
    bool is_values, is_decoding;
    int set;
    const char *tensor, *output;
} encode_options;

/* Everything of one run. */
typedef struct encode_job {
    const encode_options *opt;
    const char *plan_path, *vectors_path;
    bit_plan *plan;
    plan_head head;    /* that codes the vectors, owned */
    model_facts facts; /* of the vectors: their head_dim is how many dims they have */
    codec_tables *tables;
} encode_job;

/* ---- the head -------------------------------------------------------------------------------- */

static rb_status check_index(int64_t index, int n, const char *what, const char *path, rb_error *err)
{
    if (index < n) return RB_OK;
    return rb_fail(err, RB_EINVAL, "%s: it has no %s %lld, expected 0 to %d", path, what, (long long)index, n - 1);
}

static rb_status choose_head(encode_job *job, rb_error *err)
{
    const encode_options *opt = job->opt;
    const model_facts *model = &job->plan->model;
    const int layer = (int)opt->layer, kv_head = (int)opt->kv_head;
    rb_status st;
    RB_TRY(st, check_index(opt->layer, model->n_layers, "layer", job->plan_path, err), done);
    RB_TRY(st, check_index(opt->kv_head, model->n_kv_heads, "KV head", job->plan_path, err), done);
    job->facts = opt->is_values ? model_value_facts(model) : *model;
    if (opt->is_values && !bit_plan_quantizes_values(job->plan)) {
        st = rb_fail(err, RB_EINVAL, "%s: its values stay fp16, so they have no codes", job->plan_path);
        goto done;
    }
    st = opt->is_values ? bit_plan_value_head(job->plan, layer, kv_head, &job->head, err)
                        : plan_head_copy(&job->head, bit_plan_head(job->plan, layer, kv_head), model_n_blocks(model),
                                         model->head_dim, err);
done:
    return st;
}

/* ---- vectors --------------------------------------------------------------------------------- */

static bool is_capture(const char *path)
{
    static const char magic[8] = "\x89HDF\r\n\x1a\n";
    char start[sizeof magic] = {0};
    FILE *in = fopen(path, "rb");
    if (!in) return false;
    const size_t n = fread(start, 1, sizeof start, in);
    fclose(in);
    return n == sizeof start && memcmp(start, magic, sizeof start) == 0;
}

/* x [n][dims] of the head, freed by free(). */
static rb_status read_capture(float **x, int64_t *n, const encode_job *job, rb_error *err)
{
    const encode_options *opt = job->opt;
    const int layer = (int)opt->layer, dims = job->facts.head_dim;
    const capture_set set = (capture_set)opt->set;
    capture_file *capture = NULL;
    float *all = NULL;
    rb_status st;
    RB_TRY(st, capture_open(&capture, job->vectors_path, err), done);
    const capture_header *header = capture_file_header(capture);
    RB_TRY(st, model_facts_same(&job->plan->model, job->plan_path, &header->model, job->vectors_path, err), done);
    if (opt->is_values && !header->has_values) {
        st = rb_fail(err, RB_EINVAL, "%s: it has no values (calibrate --values)", job->vectors_path);
        goto done;
    }
    *n = header->text[set].n_tokens;
    const size_t head_bytes = (size_t)*n * (size_t)dims * sizeof **x;
    RB_TRY(st, rb_alloc(&all, (size_t)header->model.n_kv_heads, head_bytes, "vectors", err), done);
    RB_TRY(st,
           opt->is_values ? capture_read_v(capture, set, layer, all, err)
                          : capture_read_k(capture, set, layer, all, err),
           done);
    RB_TRY(st, rb_alloc(x, (size_t)*n, (size_t)dims * sizeof **x, "vectors", err), done);
    memcpy(*x, all + opt->kv_head * *n * dims, head_bytes);
done:
    free(all);
    capture_close(capture);
    return st;
}

static rb_status read_tensor(float **x, int64_t *n, const encode_job *job, rb_error *err)
{
    safetensor tensor = {0};
    rb_status st;
    RB_TRY(st, tensor_load(&tensor, job->vectors_path, job->opt->tensor, err), done);
    st = tensor_vectors(x, n, &tensor, job->facts.head_dim, job->vectors_path, err);
done:
    free((void *)tensor.data);
    return st;
}

/* Those that --first and --n-vectors leave. */
static rb_status select_vectors(int64_t *first, int64_t *n, const encode_job *job, rb_error *err)
{
    const int64_t asked = job->opt->n_vectors;
    *first = job->opt->first;
    if (*first >= *n)
        return rb_fail(err, RB_EINVAL, "%s: it has %lld vectors, expected more than --first %lld", job->vectors_path,
                       (long long)*n, (long long)*first);
    *n = asked > 0 && asked < *n - *first ? asked : *n - *first;
    return RB_OK;
}

static rb_status encode(coded_vectors *coded, const encode_job *job, rb_error *err)
{
    float *x = NULL;
    int64_t n, first;
    rb_status st;
    RB_TRY(st, is_capture(job->vectors_path) ? read_capture(&x, &n, job, err) : read_tensor(&x, &n, job, err), done);
    RB_TRY(st, select_vectors(&first, &n, job, err), done);
    st = coded_vectors_encode(coded, &job->head, &job->facts, job->tables, x + first * job->facts.head_dim, n, err);
    if (st != RB_OK) rb_fail_in(err, st, "%s", job->vectors_path);
done:
    free(x);
    return st;
}

/* ---- --decode: codes that another encoder made ----------------------------------------------- */

static rb_status check_matrix(const safetensor *tensor, const char *path, const char *dtypes, rb_error *err)
{
    if (tensor->rank == 2 && strstr(dtypes, tensor_dtype_name(tensor->dtype))) return RB_OK;
    return rb_fail(err, RB_EINVAL, "%s: array \"%s\" is %s with %d dims, expected %s with 2", path, tensor->name,
                   tensor_dtype_name(tensor->dtype), tensor->rank, dtypes);
}

/* norms [n][*n_norms] as words, freed by free(); none where the head has none. */
static rb_status read_norms(uint16_t **norms, int64_t *n_norms, int64_t n, const encode_job *job, rb_error *err)
{
    const plan_groups *groups = plan_head_groups(&job->head);
    const char *path = job->vectors_path;
    const bool is_log8 = groups->norm == NORM_LOG8;
    safetensor tensor = {0};
    rb_status st = RB_OK;
    *n_norms = 0;
    if (groups->n == 0) return RB_OK;
    RB_TRY(st, tensor_load(&tensor, path, "norms", err), done);
    RB_TRY(st, check_matrix(&tensor, path, is_log8 ? "U8" : "F16, U16", err), done);
    if (tensor.shape[0] != n) {
        st = rb_fail(err, RB_EINVAL, "%s: norms of %lld vectors, expected %lld as in packed", path,
                     (long long)tensor.shape[0], (long long)n);
        goto done;
    }
    *n_norms = tensor.shape[1];
    RB_TRY(st, rb_alloc(norms, (size_t)n, (size_t)*n_norms * sizeof **norms, "norms", err), done);
    for (int64_t i = 0; i < n * *n_norms; i++) {
        const uint8_t *bytes = (const uint8_t *)tensor.data + (is_log8 ? i : 2 * i);
        (*norms)[i] = (uint16_t)(is_log8 ? bytes[0] : bytes[0] | bytes[1] << 8);
    }
done:
    free((void *)tensor.data);
    return st;
}

static rb_status decode(coded_vectors *coded, const encode_job *job, rb_error *err)
{
    const char *path = job->vectors_path;
    safetensor packed = {0};
    uint16_t *norms = NULL;
    int64_t n_norms, n, first;
    rb_status st;
    RB_TRY(st, tensor_load(&packed, path, "packed", err), done);
    RB_TRY(st, check_matrix(&packed, path, "U8", err), done);
    n = packed.shape[0];
    RB_TRY(st, read_norms(&norms, &n_norms, n, job, err), done);
    RB_TRY(st, select_vectors(&first, &n, job, err), done);
    st = coded_vectors_decode(coded, &job->head, &job->facts, job->tables,
                              (const uint8_t *)packed.data + first * packed.shape[1], packed.shape[1],
                              norms ? norms + first * n_norms : NULL, n_norms, n, err);
    if (st != RB_OK) rb_fail_in(err, st, "%s", path);
done:
    free(norms);
    free((void *)packed.data);
    return st;
}

/* ---- run ------------------------------------------------------------------------------------- */

static void print_summary(const coded_vectors *coded, const encode_place *place, const char *output)
{
    printf("%s: %lld %s of layer %d, KV head %d (%s): %d bytes of codes", rb_shown(output).text, (long long)coded->n,
           place->is_values ? "values" : "keys", place->layer, place->kv_head, place->family, coded->packed_bytes);
    if (coded->n_norms > 0) printf(" and %d of norms", coded->n_norms * coded->norm_bits / 8);
    printf(" each");
    if (coded->x) printf(", relative error %.4g", coded_vectors_relative_error(coded));
    printf("\n");
}

static rb_status tell(const coded_vectors *coded, const encode_job *job, bool is_json, rb_error *err)
{
    const encode_options *opt = job->opt;
    const encode_place place = {job->plan_path, (int)opt->layer, (int)opt->kv_head, opt->is_values,
                                codec_family_names[job->head.family]};
    rb_status st = opt->output ? encode_write(coded, &place, opt->output, err) : RB_OK;
    if (st != RB_OK) return st;
    if (is_json) return encode_print_json(coded, &place, err);
    if (opt->output) print_summary(coded, &place, opt->output);
    else encode_print(coded);
    return RB_OK;
}

static rb_status check_options(const encode_options *opt, const char *vectors_path, rb_error *err)
{
    if (opt->tensor && opt->is_decoding)
        return rb_fail(err, RB_EUSAGE, "--decode reads the arrays packed and norms, expected no --tensor");
    if (opt->tensor && is_capture(vectors_path))
        return rb_fail(err, RB_EUSAGE, "%s is a capture, expected no --tensor", vectors_path);
    return RB_OK;
}

static rb_status encode_run(const rb_run_args *args, rb_error *err)
{
    encode_job job = {
        .opt = args->context, .plan_path = args->positionals->at[0], .vectors_path = args->positionals->at[1]};
    coded_vectors coded = {0};
    rb_status st;
    RB_TRY(st, check_options(job.opt, job.vectors_path, err), done);
    RB_TRY(st, plan_read_to_code(&job.plan, job.plan_path, err), done);
    RB_TRY(st, choose_head(&job, err), done);
    RB_TRY(st, codec_tables_create(&job.tables, err), done);
    RB_TRY(st, job.opt->is_decoding ? decode(&coded, &job, err) : encode(&coded, &job, err), done);
    st = tell(&coded, &job, args->common->json, err);
done:
    coded_vectors_free(&coded);
    codec_tables_free(job.tables);
    plan_head_clear(&job.head);
    bit_plan_free(job.plan);
    return st;
}

int main(int argc, char **argv)
{
    static const char *const sets[] = {"calibration", "test", NULL};
    encode_options opt = {.set = CAPTURE_TEST};
    const rb_option table[] = {
        {.long_name = "layer",
         .kind = RB_OPT_INT,
         .value = &opt.layer,
         .metavar = "N",
         .min = 0,
         .max = MODEL_FACTS_MAX_LAYERS - 1,
         .help = "layer whose plan codes the vectors"},
        {.long_name = "kv-head",
         .kind = RB_OPT_INT,
         .value = &opt.kv_head,
         .metavar = "N",
         .min = 0,
         .max = 1 << 16,
         .help = "and its KV head"},
        {.long_name = "values", .kind = RB_OPT_FLAG, .value = &opt.is_values, .help = "values, not keys"},
        {.long_name = "decode",
         .kind = RB_OPT_FLAG,
         .value = &opt.is_decoding,
         .help = "the way back: VECTORS has the arrays packed and norms of another encoder"},
        {.long_name = "tensor",
         .kind = RB_OPT_STRING,
         .value = &opt.tensor,
         .metavar = "NAME",
         .help = "array of an .npz or .safetensors that has several"},
        {.long_name = "set",
         .kind = RB_OPT_CHOICE,
         .value = &opt.set,
         .metavar = "SET",
         .choices = sets,
         .help = "text of a capture"},
        {.long_name = "first",
         .kind = RB_OPT_INT,
         .value = &opt.first,
         .metavar = "N",
         .min = 0,
         .max = 1 << 30,
         .help = "first vector to take"},
        {.long_name = "n-vectors",
         .kind = RB_OPT_INT,
         .value = &opt.n_vectors,
         .metavar = "N",
         .min = 0,
         .max = 1 << 30,
         .help = "vectors to take; 0: all"},
        {.short_name = 'o',
         .long_name = "output",
         .kind = RB_OPT_STRING,
         .value = &opt.output,
         .metavar = "FILE",
         .help = "codes as .npz, or .safetensors where the name ends so; without it they are printed"},
    };
    const rb_program program = {
        .name = "encode",
        .synopsis = "ropebits encode [options] PLAN VECTORS [-o CODES.npz]",
        .summary =
            "Codes vectors as one head of a plan does, and restores them: what a reader or an encoder of another "
            "program is held to. PLAN is a plan.rbp or plan.json. VECTORS is a .npy, .npz, .safetensors or raw "
            ".f32 file, or a capture.",
        .options = table,
        .n_options = RB_COUNT(table),
        .min_positionals = 2,
        .max_positionals = 2,
        .positional_names = "PLAN VECTORS",
        .run = encode_run,
        .multiplies = true,
        .context = &opt,
        .has_cpu_only = true,
    };
    return rb_program_main(&program, argc, argv);
}

/* Holds what ropebits measured on a real model to reference numbers of somebody else's code (numpy and transformers):
 *
 *   compare_reference tokens REFERENCE.json CAPTURE.h5       the ids of both sets
 *   compare_reference energies REFERENCE.json CAPTURE.h5     of queries and keys, of every block
 *   compare_reference logit-mae REFERENCE.json SUMMARY.json  of every method and budget, mean and by layer
 *   compare_reference perplexity WANTED EVALUATION.json      of the unquantized model
 *   compare_reference ids REFERENCE.json SET                 prints the ids, for calibrate --tokens
 *
 * Exits 1 with one sentence where a number is off by more than its tolerance. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calibrate/capture_file.h"
#include "core/json.h"

/* The reference's weights are rounded to bf16, which ours from a GGUF are not. Against the same numbers from the
 * rounded weights the energies agree within 1e-4. */
static const double ENERGY_TOLERANCE = 0.01, MAE_TOLERANCE = 0.01, PERPLEXITY_TOLERANCE = 0.001;

static rb_status expect_near(double found, double wanted, double tolerance, const char *what, rb_error *err)
{
    if (fabs(found - wanted) <= tolerance * fabs(wanted)) return RB_OK;
    return rb_fail(err, RB_ECHECK, "%s is %.6g, expected %.6g within %g %%", what, found, wanted, tolerance * 100);
}

static rb_status ids_of(const cJSON **out, const cJSON *reference, capture_set set, rb_error *err)
{
    char key[32];
    snprintf(key, sizeof key, "%s_ids", capture_set_name(set));
    return rb_json_get_array(reference, key, "reference", out, err);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static rb_status compare_set(const capture_file *capture, const cJSON *reference, capture_set set, rb_error *err)
{
    const int64_t n = capture_file_header(capture)->text[set].n_tokens;
    int32_t *ids = NULL;
    const cJSON *wanted, *id;
    int64_t at = 0;
    rb_status st;
    RB_TRY(st, ids_of(&wanted, reference, set, err), done);
    if (cJSON_GetArraySize(wanted) != n)
        return rb_fail(err, RB_ECHECK, "%lld %s ids, expected %d", (long long)n, capture_set_name(set),
                       cJSON_GetArraySize(wanted));
    RB_TRY(st, rb_alloc(&ids, (size_t)n, sizeof *ids, "ids", err), done);
    RB_TRY(st, capture_read_tokens(capture, set, ids, err), done);
    cJSON_ArrayForEach (id, wanted) {
        if (ids[at] != id->valueint) {
            st = rb_fail(err, RB_ECHECK, "%s id %lld is %d, expected %d", capture_set_name(set), (long long)at, ids[at],
                         id->valueint);
            goto done;
        }
        at++;
    }
done:
    free(ids);
    return st;
}

static rb_status compare_tokens(const cJSON *reference, const char *path, rb_error *err)
{
    capture_file *capture = NULL;
    rb_status st;
    RB_TRY(st, capture_open(&capture, path, err), done);
    for (int set = 0; set < CAPTURE_N_SETS; set++)
        RB_TRY(st, compare_set(capture, reference, (capture_set)set, err), done);
done:
    capture_close(capture);
    return st;
}

/* ---- energies -------------------------------------------------------------------------------- */

static rb_status compare_blocks(const cJSON *head, const char *key, const double *energy, int n, int layer, int kv_head,
                                rb_error *err)
{
    const cJSON *wanted, *value;
    char what[64];
    int block = 0;
    rb_status st = rb_json_get_array(head, key, "reference", &wanted, err);
    if (st != RB_OK) return st;
    if (cJSON_GetArraySize(wanted) != n) return rb_fail(err, RB_ECHECK, "%s: %d blocks in the reference", key, n);
    cJSON_ArrayForEach (value, wanted) {
        snprintf(what, sizeof what, "layer %d kv_head %d %s of block %d", layer, kv_head, key, block);
        RB_TRY(st, expect_near(energy[block++], value->valuedouble, ENERGY_TOLERANCE, what, err), done);
    }
done:
    return st;
}

static rb_status compare_energies(const cJSON *reference, const char *path, rb_error *err)
{
    capture_file *capture = NULL;
    block_statistics statistics = {0};
    const cJSON *heads, *head;
    rb_status st;
    RB_TRY(st, capture_open(&capture, path, err), done);
    const model_facts *model = &capture_file_header(capture)->model;
    RB_TRY(st, block_statistics_create(&statistics, model, err), done);
    RB_TRY(st, rb_json_get_array(reference, "heads", "reference", &heads, err), done);
    if (cJSON_GetArraySize(heads) != model->n_layers * model->n_kv_heads) {
        st = rb_fail(err, RB_ECHECK, "%d heads in the reference", cJSON_GetArraySize(heads));
        goto done;
    }
    cJSON_ArrayForEach (head, heads) {
        int64_t layer, kv_head;
        RB_TRY(st, rb_json_get_int(head, "layer", "reference", 0, model->n_layers - 1, &layer, err), done);
        RB_TRY(st, rb_json_get_int(head, "kv_head", "reference", 0, model->n_kv_heads - 1, &kv_head, err), done);
        RB_TRY(st, capture_read_statistics(capture, CAPTURE_CALIBRATION, (int)layer, &statistics, err), done);
        const int n = statistics.n_blocks;
        const double *q = statistics.q_energy + kv_head * n, *k = statistics.k_energy + kv_head * n;
        RB_TRY(st, compare_blocks(head, "q_energy", q, n, (int)layer, (int)kv_head, err), done);
        RB_TRY(st, compare_blocks(head, "k_energy", k, n, (int)layer, (int)kv_head, err), done);
    }
done:
    block_statistics_free(&statistics);
    capture_close(capture);
    return st;
}

/* ---- logit MAE ------------------------------------------------------------------------------- */

/* One method at one budget, which the reference calls "uniform@2". */
static rb_status compare_method(const cJSON *by_layer, const cJSON *method, rb_error *err)
{
    const char *name;
    const cJSON *found, *layer;
    char key[64], what[128];
    double avg_bits, wanted, mean, sum = 0;
    int n = 0;
    rb_status st;
    RB_TRY(st, rb_json_get_string(method, "method", "summary", &name, err), done);
    RB_TRY(st, rb_json_get_number(method, "avg_bits", "summary", 1, 8, &avg_bits, err), done);
    RB_TRY(st, rb_json_get_array(method, "logit_mae_by_layer", "summary", &found, err), done);
    snprintf(key, sizeof key, "%s@%g", name, avg_bits);
    if (cJSON_GetArraySize(found) != cJSON_GetArraySize(by_layer))
        return rb_fail(err, RB_ECHECK, "%d layers, expected %d", cJSON_GetArraySize(found),
                       cJSON_GetArraySize(by_layer));
    const cJSON *value = found->child;
    cJSON_ArrayForEach (layer, by_layer) {
        RB_TRY(st, rb_json_get_number(layer, key, "reference", 0, HUGE_VAL, &wanted, err), done);
        snprintf(what, sizeof what, "logit MAE of %s in layer %d", key, n++);
        RB_TRY(st, expect_near(value->valuedouble, wanted, MAE_TOLERANCE, what, err), done);
        sum += wanted;
        value = value->next;
    }
    RB_TRY(st, rb_json_get_number(method, "logit_mae", "summary", 0, HUGE_VAL, &mean, err), done);
    snprintf(what, sizeof what, "logit MAE of %s", key);
    RB_TRY(st, expect_near(mean, sum / n, MAE_TOLERANCE, what, err), done);
    printf("%s %.4f, reference %.4f\n", what, mean, sum / n);
done:
    return st;
}

static rb_status compare_logit_mae(const cJSON *reference, const char *path, rb_error *err)
{
    cJSON *summary = NULL;
    const cJSON *by_layer, *methods, *method;
    rb_status st;
    RB_TRY(st, rb_json_read(&summary, path, 0, err), done);
    RB_TRY(st, rb_json_get_array(reference, "logit_mae_by_layer", "reference", &by_layer, err), done);
    RB_TRY(st, rb_json_get_array(summary, "methods", path, &methods, err), done);
    if (cJSON_GetArraySize(methods) == 0) st = rb_fail(err, RB_ECHECK, "%s: no methods", path);
    cJSON_ArrayForEach (method, methods) RB_TRY(st, compare_method(by_layer, method, err), done);
done:
    cJSON_Delete(summary);
    return st;
}

/* ---- perplexity ------------------------------------------------------------------------------ */

static rb_status compare_perplexity(const char *wanted, const char *path, rb_error *err)
{
    cJSON *evaluation = NULL;
    const cJSON *runs;
    double found;
    rb_status st;
    RB_TRY(st, rb_json_read(&evaluation, path, 0, err), done);
    RB_TRY(st, rb_json_get_array(evaluation, "runs", path, &runs, err), done);
    RB_TRY(st, rb_json_get_number(runs->child, "perplexity", path, 1, HUGE_VAL, &found, err), done);
    printf("perplexity %.4f, reference %s\n", found, wanted);
    RB_TRY(st, expect_near(found, atof(wanted), PERPLEXITY_TOLERANCE, "perplexity", err), done);
done:
    cJSON_Delete(evaluation);
    return st;
}

static rb_status print_ids(const cJSON *reference, const char *set, rb_error *err)
{
    const cJSON *ids, *id;
    const rb_status st = ids_of(&ids, reference, strcmp(set, "test") == 0 ? CAPTURE_TEST : CAPTURE_CALIBRATION, err);
    if (st != RB_OK) return st;
    cJSON_ArrayForEach (id, ids) printf("%d\n", id->valueint);
    return RB_OK;
}

int main(int argc, char **argv)
{
    rb_error err = {0};
    cJSON *reference = NULL;
    rb_status st = RB_EUSAGE;
    if (argc == 4) {
        const char *what = argv[1];
        if (strcmp(what, "perplexity") == 0) st = compare_perplexity(argv[2], argv[3], &err);
        else st = rb_json_read(&reference, argv[2], 0, &err);
        if (st == RB_OK && strcmp(what, "tokens") == 0) st = compare_tokens(reference, argv[3], &err);
        if (st == RB_OK && strcmp(what, "energies") == 0) st = compare_energies(reference, argv[3], &err);
        if (st == RB_OK && strcmp(what, "logit-mae") == 0) st = compare_logit_mae(reference, argv[3], &err);
        if (st == RB_OK && strcmp(what, "ids") == 0) st = print_ids(reference, argv[3], &err);
    }
    if (st != RB_OK) fprintf(stderr, "compare_reference: %s\n", err.msg);
    cJSON_Delete(reference);
    return rb_exit_code(st);
}

/* See calibrate/run_identity.h. */
#include "calibrate/run_identity.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/cuda_device.h"
#include "core/json.h"
#include "core/sha256.h"

/* ---- files of weights ------------------------------------------------------------------------ */

static rb_status add_text(rb_sha256 *hash, const char *text, rb_error *err)
{
    return rb_sha256_add(hash, text, strlen(text) + 1, err);
}

/* "size time" of a file; "" where it is not there. */
static void file_state(char *text, size_t size, const char *path)
{
    struct stat info;
    text[0] = '\0';
    if (stat(path, &info) == 0)
        snprintf(text, size, "%lld %lld.%09ld", (long long)info.st_size, (long long)info.st_mtim.tv_sec,
                 info.st_mtim.tv_nsec);
}

/* The file that a tensor lies in, unless it is that of the tensor before: tensors of a file mostly follow each other.
 */
static rb_status add_file(rb_sha256 *hash, const checkpoint *ckpt, const safetensor *tensor, const char **last_path,
                          rb_error *err)
{
    char state[128];
    tensor_place place;
    rb_status st;
    RB_TRY(st, checkpoint_place(ckpt, tensor->name, tensor->rank, tensor->shape, &place, err), done);
    if (*last_path && strcmp(place.path, *last_path) == 0) goto done;
    *last_path = place.path;
    file_state(state, sizeof state, place.path);
    RB_TRY(st, add_text(hash, place.path, err), done);
    st = add_text(hash, state, err);
done:
    return st;
}

static rb_status hash_weight_files(char hex[RB_SHA256_HEX], const checkpoint *ckpt, rb_error *err)
{
    rb_sha256 *hash = NULL;
    const char *last_path = NULL;
    rb_status st, ended;
    RB_TRY(st, rb_sha256_begin(&hash, err), done);
    for (int64_t i = 0; i < checkpoint_n_tensors(ckpt); i++)
        RB_TRY(st, add_file(hash, ckpt, checkpoint_tensor_at(ckpt, i), &last_path, err), done);
done:
    if (!hash) return st;
    ended = rb_sha256_end(&hash, st == RB_OK ? hex : NULL, err);
    return st == RB_OK ? ended : st;
}

/* ---- the rest -------------------------------------------------------------------------------- */

static rb_status add_program(cJSON *json, rb_device_kind device, rb_error *err)
{
    char hex[RB_SHA256_HEX], state[64] = "", *path = NULL, *text = NULL;
    rb_status st;
    RB_TRY(st, rb_sha256_file(hex, "/proc/self/exe", err), done);
    if (device == RB_DEVICE_CUDA) {
        RB_TRY(st, rb_cuda_library_path(&path, err), done);
        file_state(state, sizeof state, path);
    }
    RB_TRY(st, rb_format(&text, err, "%s %s", hex, state), done);
    st = rb_json_add_string(json, "program files", text, err);
done:
    free(path);
    free(text);
    return st;
}

static rb_status add_hardware(cJSON *json, rb_device_kind device, int64_t max_gpu_bytes, rb_error *err)
{
    char *text = NULL;
    rb_status st;
    if (device == RB_DEVICE_CUDA)
        RB_TRY(st, rb_format(&text, err, "%s, at most %lld bytes", rb_cuda_device()->name, (long long)max_gpu_bytes),
               done);
    else RB_TRY(st, rb_format(&text, err, "CPU, %s, %s", openblas_get_config(), openblas_get_corename()), done);
    st = rb_json_add_string(json, "hardware", text, err);
done:
    free(text);
    return st;
}

static rb_status add_tokens(cJSON *json, const capture_header *header, const int32_t *const tokens[CAPTURE_N_SETS],
                            rb_error *err)
{
    cJSON *sets = NULL, *set = NULL;
    char hex[RB_SHA256_HEX];
    rb_status st;
    RB_TRY(st, rb_json_new_object(&sets, err), done);
    for (int i = 0; i < CAPTURE_N_SETS; i++) {
        const text_facts *text = &header->text[i];
        RB_TRY(st, rb_sha256_bytes(hex, tokens[i], (size_t)text->n_tokens * sizeof *tokens[i], err), done);
        RB_TRY(st, rb_json_new_object(&set, err), done);
        RB_TRY(st, rb_json_add_number(set, "n_tokens", (double)text->n_tokens, err), done);
        RB_TRY(st, rb_json_add_number(set, "context", (double)text->context, err), done);
        RB_TRY(st, rb_json_add_string(set, "sha256", hex, err), done);
        RB_TRY(st, text_bos_to_json(set, &text->bos, err), done);
        RB_TRY(st, rb_json_add_item(sets, capture_set_name((capture_set)i), &set, err), done);
    }
    st = rb_json_add_item(json, "tokens", &sets, err);
done:
    cJSON_Delete(set);
    cJSON_Delete(sets);
    return st;
}

rb_status run_identity_to_json(char **out, const checkpoint *ckpt, const capture_header *header,
                               const int32_t *const tokens[CAPTURE_N_SETS], const char *options_json,
                               rb_device_kind device, int64_t max_gpu_bytes, rb_error *err)
{
    cJSON *json = NULL, *facts = NULL;
    char hex[RB_SHA256_HEX];
    rb_status st;
    RB_TRY(st, rb_json_new_object(&json, err), done);
    RB_TRY(st, rb_json_add_string(json, "options", options_json, err), done);
    RB_TRY(st, model_facts_to_json(&facts, &header->model, err), done);
    RB_TRY(st, rb_json_add_item(json, "model facts", &facts, err), done);
    RB_TRY(st, add_tokens(json, header, tokens, err), done);
    RB_TRY(st, hash_weight_files(hex, ckpt, err), done);
    RB_TRY(st, rb_json_add_string(json, "weights", hex, err), done);
    RB_TRY(st, add_hardware(json, device, max_gpu_bytes, err), done);
    RB_TRY(st, add_program(json, device, err), done);
    st = rb_json_print(out, json, err);
done:
    cJSON_Delete(facts);
    cJSON_Delete(json);
    return st;
}

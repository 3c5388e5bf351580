/* A plan.json. A plan that the reader takes is one that every writer takes, and what each writes is read back:
 * plan.json itself, plan.rbp by both of its readers, plan.safetensors, plan.h. */
#include "tests/fuzz/json_mutator.h"

#include "core/atomic_file.h"
#include "core/json.h"
#include "export/plan_header.h"
#include "export/plan_safetensors.h"
#include "model/safetensors.h"
#include "plan/plan_json.h"
#include "tests/fuzz/plan_rbp_check.h"

FUZZ_INITIALIZE

enum { MAX_HEADER = 64 << 20 };

static char folder[64];

static void remove_folder(void) { rmdir(folder); }

static const char *output_path(const char *name)
{
    static char path[128];
    if (folder[0] == '\0') {
        snprintf(folder, sizeof folder, "%s/ropebits-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        if (!mkdtemp(folder)) abort();
        atexit(remove_folder);
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void check_json(const bit_plan *plan)
{
    cJSON *document = NULL;
    bit_plan *again = NULL;
    rb_error err = {0};
    rb_status st = plan_to_json(&document, plan, &err);
    FUZZ_HOLDS(st == RB_OK, &err);
    st = plan_from_json(&again, document, "again", &err);
    FUZZ_HOLDS(st == RB_OK, &err);
    bit_plan_free(again);
    cJSON_Delete(document);
}

/* The plan.json in the metadata is a plan too. */
static void check_safetensors(const bit_plan *plan)
{
    const char *path = output_path("plan.safetensors");
    safetensors_file *file = NULL;
    cJSON *document = NULL;
    bit_plan *again = NULL;
    rb_error err = {0};
    rb_status st = plan_safetensors_write(plan, path, &err);
    FUZZ_HOLDS(st == RB_OK, &err);
    st = safetensors_open(&file, path, &err);
    FUZZ_HOLDS(st == RB_OK, &err);
    const char *text = safetensors_metadata(file, "plan");
    FUZZ_HOLDS(text != NULL, &err);
    st = rb_json_parse(&document, text, strlen(text), "metadata", &err);
    if (st == RB_OK) st = plan_from_json(&again, document, "metadata", &err);
    FUZZ_HOLDS(st == RB_OK, &err);
    bit_plan_free(again);
    cJSON_Delete(document);
    safetensors_close(file);
    unlink(path);
}

/* The header's comments end where its writer ends them, and no line is a directive but its own. */
static void check_header(const bit_plan *plan)
{
    const char *path = output_path("plan.h");
    char *text = NULL;
    size_t size;
    int depth = 0;
    rb_error err = {0};
    rb_status st = plan_header_write(plan, path, &err);
    FUZZ_HOLDS(st == RB_OK, &err);
    st = rb_read_file(&text, &size, path, MAX_HEADER, &err);
    FUZZ_HOLDS(st == RB_OK, &err);
    for (const char *at = text; *at; at++) {
        FUZZ_HOLDS((unsigned char)*at < 0x7f && (*at >= ' ' || *at == '\n'), &err);
        if (at[0] == '/' && at[1] == '*') FUZZ_HOLDS(depth++ == 0, &err);
        if (at[0] == '*' && at[1] == '/') FUZZ_HOLDS(depth-- == 1, &err);
    }
    FUZZ_HOLDS(depth == 0, &err);
    free(text);
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cJSON *document = NULL;
    bit_plan *plan = NULL;
    rb_error err = {0};
    rb_status st = rb_json_parse(&document, (const char *)data, size, "fuzz", &err);
    if (st == RB_OK) st = plan_from_json(&plan, document, "fuzz", &err);
    fuzz_check(st, &err);
    if (st == RB_OK) {
        /* Writers make the codebooks of block-codebook anew, and compress as well as they can. */
        const bool is_slow = plan->heads[0].family == FAMILY_BLOCK_CODEBOOK;
        check_json(plan);
        if (fuzz_is_chosen(data, size, is_slow ? 256 : 8)) {
            check_plan_rbp(plan);
            check_safetensors(plan);
            check_header(plan);
        }
    }
    bit_plan_free(plan);
    cJSON_Delete(document);
    return 0;
}

/* See plan/plan_read.h. */
#include "plan/plan_read.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "plan/library/plan_rbp_format.h"
#include "plan/plan_json.h"
#include "plan/plan_rbp.h"
#include "plan/plan_rbp_tables.h"

/* What is neither is told by the reader of plan.rbp, which names the magic. */
static bool is_rbp(const char *path)
{
    char start[PLAN_RBP_MAGIC_SIZE] = {0};
    FILE *file = fopen(path, "rb");
    const bool has_magic =
        file && fread(start, 1, sizeof start, file) == sizeof start && memcmp(start, PLAN_RBP_MAGIC, sizeof start) == 0;
    if (file) fclose(file);
    return has_magic || start[0] != '{';
}

rb_status plan_read(bit_plan **out, const char *path, rb_error *err)
{
    return is_rbp(path) ? plan_rbp_read(out, path, err) : plan_json_read(out, path, err);
}

rb_status plan_read_to_code(bit_plan **out, const char *path, rb_error *err)
{
    rb_status st = plan_read(out, path, err);
    if (st == RB_OK && is_rbp(path)) st = plan_rbp_warn_of_tables(path, *out, err);
    if (st == RB_OK) return RB_OK;
    bit_plan_free(*out);
    *out = NULL;
    return st;
}

/* See plan/plan_read.h. */
#include "plan/plan_read.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "plan/library/plan_rbp_format.h"
#include "plan/plan_json.h"
#include "plan/plan_rbp.h"

rb_status plan_read(bit_plan **out, const char *path, rb_error *err)
{
    char start[PLAN_RBP_MAGIC_SIZE] = {0};
    FILE *file = fopen(path, "rb");
    const bool is_rbp =
        file && fread(start, 1, sizeof start, file) == sizeof start && memcmp(start, PLAN_RBP_MAGIC, sizeof start) == 0;
    const bool is_json = start[0] == '{';
    if (file) fclose(file);
    /* What is neither is told by the reader of plan.rbp, which names the magic. */
    return is_json && !is_rbp ? plan_json_read(out, path, err) : plan_rbp_read(out, path, err);
}

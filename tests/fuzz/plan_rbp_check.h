/* What two fuzz targets ask of a plan: its plan.rbp is written, and both readers take it. */
#ifndef RB_TESTS_FUZZ_PLAN_RBP_CHECK_H
#define RB_TESTS_FUZZ_PLAN_RBP_CHECK_H

#include "plan/library/ropebits_plan.h"
#include "plan/plan_rbp.h"
#include "tests/fuzz/fuzz_support.h"

static void check_plan_rbp(const bit_plan *plan)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    ropebits_plan *read = NULL;
    bit_plan *again = NULL;
    rb_error err = {0};
    rb_status st = plan_rbp_encode(&bytes, &size, plan, &err);
    FUZZ_HOLDS(st == RB_OK, &err);
    FUZZ_HOLDS(ropebits_plan_parse(&read, bytes, size, err.msg, sizeof err.msg) == 0, &err);
    st = plan_rbp_convert(&again, read, "again", &err);
    FUZZ_HOLDS(st == RB_OK, &err);
    bit_plan_free(again);
    ropebits_plan_close(read);
    free(bytes);
}

#endif

/* Whether the tables that a plan.rbp stores are those that this build makes. Runtimes code by the file's, programs of
 * ropebits by their own: where they differ, what a program measures is not what a runtime does. */
#ifndef RB_PLAN_PLAN_RBP_TABLES_H
#define RB_PLAN_PLAN_RBP_TABLES_H

#include "plan/bit_plan.h"
#include "plan/library/ropebits_plan.h"

/* plan: what `source` was read as. out: the name of the first table that differs, "centroids of width 3 for 40 dims",
 * or
 * "". Numbers may differ by the rounding of a product. Fails as codebook_build, RB_ENOMEM. */
rb_status plan_rbp_find_other_table(char *out, size_t size, const ropebits_plan *source, const bit_plan *plan,
                                    rb_error *err);

/* Warns where a table of the file at `path`, which `plan` was read from, differs. Fails also where it can be read no
 * more. */
rb_status plan_rbp_warn_of_tables(const char *path, const bit_plan *plan, rb_error *err);

#endif

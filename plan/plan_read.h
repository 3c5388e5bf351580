/* A plan in either form that can be read: plan.rbp or plan.json, told apart by content. For programs that take a plan.
 */
#ifndef RB_PLAN_PLAN_READ_H
#define RB_PLAN_PLAN_READ_H

#include "plan/bit_plan.h"

rb_status plan_read(bit_plan **out, const char *path, rb_error *err);
/* The same for a program that codes by the plan, with tables of its own: warns where a plan.rbp stores others
 * (plan/plan_rbp_tables.h). A moment's work for plans with tables of points. */
rb_status plan_read_to_code(bit_plan **out, const char *path, rb_error *err);

#endif

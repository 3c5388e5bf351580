/* Finding the other programs: ropebits-NAME lives in the folder of the running executable. */
#ifndef RB_CORE_SIBLING_H
#define RB_CORE_SIBLING_H

#include "core/status.h"

/* Path of program NAME beside the running executable (links resolved), whether it exists or not; freed by free(). */
rb_status rb_sibling_program(char **out, const char *name, rb_error *err);

#endif

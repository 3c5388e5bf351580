/* Finding what is installed beside the running executable. */
#ifndef RB_CORE_SIBLING_H
#define RB_CORE_SIBLING_H

#include "core/status.h"

/* The folder of the running executable, links resolved; freed by free(). */
rb_status rb_program_folder(char **out, rb_error *err);
/* Path of the program ropebits-NAME in that folder, which need not exist; freed by free(). */
rb_status rb_sibling_program(char **out, const char *name, rb_error *err);

#endif

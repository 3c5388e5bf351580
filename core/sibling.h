/* Finding what is installed beside the running executable, or beside a library of ours. */
#ifndef RB_CORE_SIBLING_H
#define RB_CORE_SIBLING_H

#include "core/status.h"

/* The folder of the running executable, links resolved; freed by free(). */
rb_status rb_program_folder(char **out, rb_error *err);
/* The folder of the shared object that this code is part of, links resolved; freed by free(). NULL: it is part of the
 * program. */
rb_status rb_library_folder(char **out, rb_error *err);
/* Path of the program ropebits-NAME in that folder, which need not exist; freed by free(). */
rb_status rb_sibling_program(char **out, const char *name, rb_error *err);

#endif

/* "Did you mean": the known name that a mistyped one is closest to. */
#ifndef RB_CORE_NEAREST_NAME_H
#define RB_CORE_NEAREST_NAME_H

#include <stddef.h>

/* The name with the least edit distance (Levenshtein) to word, the first one of equals. NULL when every distance is
 * more than 2, or as long as word itself. */
const char *rb_nearest_name(const char *word, const char *const *names, size_t n_names);

#endif

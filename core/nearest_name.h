/* "Did you mean": the known name that a mistyped one is closest to. */
#ifndef RB_CORE_NEAREST_NAME_H
#define RB_CORE_NEAREST_NAME_H

#include <stddef.h>

/* The name of least edit distance (Levenshtein) to word, the first of equals; NULL when all are further than 2 or as
 * far as word is long. */
const char *rb_nearest_name(const char *word, const char *const *names, size_t n_names);

#endif

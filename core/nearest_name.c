/* Levenshtein's distance by the table of Wagner and Fischer (The string-to-string correction problem, J. ACM 21, 1974),
 * of which one row is kept. */
#include "core/nearest_name.h"

#include <string.h>

enum { MAX_DISTANCE = 2, MAX_NAME = 63 };

static size_t least(size_t a, size_t b, size_t c)
{
    const size_t ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Both at most MAX_NAME long. */
static size_t edit_distance(const char *a, const char *b)
{
    /* Distance from the first characters of a, as many as were read, to the first j characters of b. */
    size_t row[MAX_NAME + 1];
    const size_t n = strlen(b);
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            const size_t above = row[j + 1];
            row[j + 1] = least(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
            diagonal = above;
        }
    }
    return row[n];
}

const char *rb_nearest_name(const char *word, const char *const *names, size_t n_names)
{
    const size_t length = strlen(word);
    const char *nearest = NULL;
    size_t nearest_distance = length <= MAX_DISTANCE ? length : MAX_DISTANCE + 1;
    if (length > MAX_NAME) return NULL;
    for (size_t i = 0; i < n_names; i++) {
        if (strlen(names[i]) > MAX_NAME) continue;
        const size_t distance = edit_distance(word, names[i]);
        if (distance < nearest_distance) {
            nearest_distance = distance;
            nearest = names[i];
        }
    }
    return nearest;
}

/* What `ropebits encode` writes and prints: see docs/encode.md. */
#ifndef RB_EXPORT_ENCODE_OUTPUT_H
#define RB_EXPORT_ENCODE_OUTPUT_H

#include "export/coded_vectors.h"

/* Where the vectors belong, for the output. */
typedef struct encode_place {
    const char *plan; /* path */
    int layer, kv_head;
    bool is_values;
    const char *family; /* of the head that coded them */
} encode_place;

/* Arrays vectors (where there are), packed, norms (where there are), restored, as .npz, or as .safetensors where the
 * path ends so. Atomic. */
rb_status encode_write(const coded_vectors *coded, const encode_place *place, const char *path, rb_error *err);
/* A line a vector: its number, packed codes and norms in hex. */
void encode_print(const coded_vectors *coded);
/* One JSON document with all of it. */
rb_status encode_print_json(const coded_vectors *coded, const encode_place *place, rb_error *err);

#endif

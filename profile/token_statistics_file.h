/* token_statistics in a profile.h5, each table a dataset under a prefix: "" or a group such as "/counted". Formats:
 * docs/profile-h5.md. */
#ifndef RB_PROFILE_TOKEN_STATISTICS_FILE_H
#define RB_PROFILE_TOKEN_STATISTICS_FILE_H

#include "core/hdf5/hdf5_file.h"
#include "profile/token_statistics.h"

/* Tables of values where there are some. */
rb_status token_statistics_write(hid_t file, const char *prefix, const token_statistics *statistics,
                                 const model_facts *model, rb_error *err);
/* Every table is there with the model's shape. Comes before anything of that size is allocated. */
rb_status token_statistics_check(const rb_h5_contents *file, const char *prefix, const model_facts *model,
                                 bool has_values, rb_error *err);
/* out: with room, of values where the file has them. `path` is the file's, for messages. Fails with RB_EFORMAT on an
 * energy or error below 0. */
rb_status token_statistics_read(token_statistics *out, const rb_h5_contents *file, const char *path, const char *prefix,
                                const model_facts *model, rb_error *err);

#endif

/* output_sensitivity in a profile.h5: the group /sensitivity. Format: docs/profile-h5.md. */
#ifndef RB_PROFILE_OUTPUT_SENSITIVITY_FILE_H
#define RB_PROFILE_OUTPUT_SENSITIVITY_FILE_H

#include "core/hdf5/hdf5_file.h"
#include "profile/output_sensitivity.h"

/* Nothing where nothing is known. */
rb_status output_sensitivity_write(hid_t file, const output_sensitivity *sensitivity, const model_facts *model,
                                   rb_error *err);
/* All NULL where the file has none, as those of builds before. Every table is checked to have the model's shape before
 * anything of that size is allocated. `path` is the file's, for messages. Fails with RB_EFORMAT on a matrix that is not
 * symmetric or whose diagonal is below 0. */
rb_status output_sensitivity_read(output_sensitivity *out, const rb_h5_contents *file, const char *path,
                                  const model_facts *model, rb_error *err);

#endif

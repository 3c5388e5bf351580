/* profile.h5: reader and writer. Layout: docs/profile-h5.md. */
#ifndef RB_PROFILE_PROFILE_FILE_H
#define RB_PROFILE_PROFILE_FILE_H

#include "profile/profile_table.h"

#define PROFILE_SCHEMA "ropebits-profile"
enum { PROFILE_VERSION = 5 };

rb_status profile_file_write(const profile_table *table, const char *path, const char *options_json,
                             rb_error *err); /* atomic */
rb_status profile_file_read(profile_table **out, const char *path, rb_error *err);

#endif

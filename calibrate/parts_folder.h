/* The folder of a capture's parts: its names, its lock, and what is removed of it. Only capture_parts.c uses it. */
#ifndef RB_CALIBRATE_PARTS_FOLDER_H
#define RB_CALIBRATE_PARTS_FOLDER_H

#include <stdbool.h>

#include "core/status.h"

enum { PARTS_N_SLOTS = 2, PARTS_MAX_GENERATION = 999999 };

typedef struct parts_folder {
    const char *output; /* the caller's */
    char *path;         /* OUTPUT.parts */
    int lock;           /* descriptor; -1: none, since the file system has no locks */
} parts_folder;

/* Makes and locks the folder; without locks there is no folder. Fails with RB_EIO where the output cannot be written,
 * in the words of rb_atomic_begin, and where another run holds the folder. */
rb_status parts_folder_open(parts_folder *folder, const char *output, rb_error *err);
/* Ends the lock. */
void parts_folder_close(parts_folder *folder);

/* Names, freed by free(). */
rb_status parts_identity_path(char **out, const parts_folder *folder, rb_error *err);
rb_status parts_capture_path(char **out, const parts_folder *folder, int generation, rb_error *err);
rb_status parts_journal_path(char **out, const parts_folder *folder, int generation, rb_error *err);
rb_status parts_stream_path(char **out, const parts_folder *folder, int slot, rb_error *err);

/* The lowest generation that has a journal; 0: there is none. */
int parts_folder_generation(const parts_folder *folder);
/* Removes the captures and journals of all generations but this one. */
void parts_folder_keep_generation(const parts_folder *folder, int generation);
/* Removes all parts; true: there were some. The lock stays. */
bool parts_folder_clear(const parts_folder *folder);
/* Removes lock and folder, after clear. Files of others stay, with a warning. */
void parts_folder_remove(parts_folder *folder);

#endif

/* Documents files (docs/needles.md): teacher-forced tasks as token ids and answers, what the needle generator made or a
 * user brings.
 *
 *   { "schema": "ropebits-documents", "version": 1,
 *     "documents": [ {"task": "multikey", "depth": 0.5, "tokens": [17, 4, ...], "answers": [[1010, 4], ...]}, ... ] }
 *
 * depth may be null or absent. An answer is [first, n]: n tokens from token `first` on are to be predicted. Same
 * documents, same bytes. */
#ifndef RB_TEXTS_DOCUMENTS_FILE_H
#define RB_TEXTS_DOCUMENTS_FILE_H

#include "texts/needle_documents.h"

#define DOCUMENTS_SCHEMA "ropebits-documents"
enum { DOCUMENTS_VERSION = 1 };

rb_status documents_write(const needle_documents *documents, const char *path, rb_error *err);

/* At least one document, each with at least one answer inside its tokens. Whether ids fit a model:
 * needle_documents_check_vocabulary. Freed by needle_documents_free. Unknown members are errors. */
rb_status documents_read(needle_documents *out, const char *path, rb_error *err);

#endif

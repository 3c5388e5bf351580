/* Documents files (docs/needles.md): teacher-forced tasks as token ids and answers, made by the needle generator or
 * brought by a user.
 *
 *   { "schema": "ropebits-documents", "version": 1,
 *     "documents": [ {"task": "multikey", "depth": 0.5, "tokens": [17, 4, ...], "answers": [[1010, 4], ...]}, ... ] }
 *
 * depth may be null or absent. An answer is [first, n]: the n tokens from token `first` on are to be predicted. The
 * same documents give the same bytes. */
#ifndef RB_TEXTS_DOCUMENTS_FILE_H
#define RB_TEXTS_DOCUMENTS_FILE_H

#include "texts/needle_documents.h"

#define DOCUMENTS_SCHEMA "ropebits-documents"
enum { DOCUMENTS_VERSION = 1 };

rb_status documents_write(const needle_documents *documents, const char *path, rb_error *err);

/* A file has at least one document, and each document at least one answer inside its tokens. Unknown members are
 * errors. needle_documents_check_vocabulary says whether the ids fit a model. Freed by needle_documents_free. */
rb_status documents_read(needle_documents *out, const char *path, rb_error *err);

#endif

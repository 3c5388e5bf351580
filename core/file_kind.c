/* See core/file_kind.h. */
#include "core/file_kind.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "core/status.h"

typedef struct known_start {
    const char *bytes;
    size_t n_bytes;
    const char *kind;
} known_start;

#define START(text, kind)              \
    {                                  \
        (text), sizeof(text) - 1, kind \
    }
static const known_start starts[] = {
    START("version https://git-lfs.github.com/spec/",
          "a Git LFS pointer, not the file itself: fetch it with git lfs pull"),
    START("version https://hawser.github.com/spec/",
          "a Git LFS pointer, not the file itself: fetch it with git lfs pull"),
    START("GGUF", "a GGUF file"),
    START("PK\003\004", "a zip archive, as PyTorch writes its pickles"),
    START("\200\002", "a Python pickle"),
    START("\200\003", "a Python pickle"),
    START("\200\004", "a Python pickle"),
    START("\200\005", "a Python pickle"),
    START("\211HDF\r\n\032\n", "an HDF5 file"),
    START("\223NUMPY", "a NumPy array"),
    START("\037\213", "a gzip archive"),
    START("\050\265\057\375", "a zstd archive"),
    START("\xfd"
          "7zXZ",
          "an xz archive"),
};

/* A page that says "not found" or "log in", saved under the file's name. */
static const char *const page_starts[] = {"<!doctype html", "<html", "<head", "<?xml", "<!--"};

const char *rb_file_kind(const void *bytes, size_t n_bytes)
{
    const char *text = bytes, *end = text + n_bytes;
    if (n_bytes == 0) return "an empty file";
    for (size_t i = 0; i < RB_COUNT(starts); i++)
        if (n_bytes >= starts[i].n_bytes && memcmp(text, starts[i].bytes, starts[i].n_bytes) == 0)
            return starts[i].kind;
    while (text < end && isspace((unsigned char)*text)) text++;
    for (size_t i = 0; i < RB_COUNT(page_starts); i++) {
        const size_t length = strlen(page_starts[i]);
        if ((size_t)(end - text) >= length && strncasecmp(text, page_starts[i], length) == 0)
            return "an HTML or XML page, not the file itself: the download went wrong";
    }
    return NULL;
}

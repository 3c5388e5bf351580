/* What every fuzz target needs. A target is fuzz_NAME.c with LLVMFuzzerTestOneInput: it reads the bytes as one kind of
 * file and holds the reader to its promises. `make fuzz` links it with libFuzzer; the check links it with seeds_main.c,
 * which runs it over the seeds of seeds/NAME. */
#ifndef RB_TESTS_FUZZ_FUZZ_SUPPORT_H
#define RB_TESTS_FUZZ_FUZZ_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/message.h"
#include "core/status.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size); /* of libFuzzer, or of seeds_main.c */

/* Warnings would slow it down. */
#define FUZZ_INITIALIZE                               \
    int LLVMFuzzerInitialize(int *argc, char ***argv) \
    {                                                 \
        (void)argc, (void)argv;                       \
        rb_messages_init("fuzz", RB_QUIET);           \
        return 0;                                     \
    }

/* A promise that does not hold is a finding, as a crash is. */
#define FUZZ_HOLDS(condition, err)                                                                         \
    do {                                                                                                   \
        if (!(condition)) {                                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s: %s\n", __FILE__, __LINE__, #condition, (err)->msg); \
            abort();                                                                                       \
        }                                                                                                  \
    } while (0)

/* What a refusal must be: one line of plain text. */
static inline void fuzz_check(rb_status st, const rb_error *err)
{
    if (st != RB_OK) FUZZ_HOLDS(err->msg[0] != '\0' && rb_is_plain_text(err->msg), err);
}

/* A file in memory, written anew for every input, for readers that take paths. Two of them: slot 0 and 1. */
static inline const char *fuzz_file(int slot, const void *data, size_t size)
{
    static struct {
        int fd;
        char path[32];
    } files[2];
    if (files[slot].path[0] == '\0') {
        files[slot].fd = memfd_create("fuzz", MFD_CLOEXEC);
        if (files[slot].fd < 0) abort();
        snprintf(files[slot].path, sizeof files[slot].path, "/proc/self/fd/%d", files[slot].fd);
    }
    if (ftruncate(files[slot].fd, 0) != 0 || pwrite(files[slot].fd, data, size, 0) != (ssize_t)size) abort();
    return files[slot].path;
}

/* True for one input in n, by its bytes, so that an input does the same every time: for what takes long. */
static inline bool fuzz_is_chosen(const uint8_t *data, size_t size, uint32_t n)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < size; i++) hash = (hash ^ data[i]) * 16777619u;
    return hash / 65536 % n == 0;
}

/* Reads every byte, so that a sanitizer sees those that are not there. */
static inline void fuzz_touch(const void *bytes, size_t n)
{
    const volatile unsigned char *at = bytes;
    for (size_t i = 0; i < n; i++) (void)at[i];
}

/* The input as a string. Freed by free(). */
static inline char *fuzz_string(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    if (!text) abort();
    memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

#endif

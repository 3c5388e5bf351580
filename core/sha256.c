/* SHA-256 by OpenSSL's EVP interface: it picks the CPU's SHA instructions where there are any. */
#include "core/sha256.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIGEST_BYTES = 32, READ_BYTES = 1 << 20 };

struct rb_sha256 {
    EVP_MD_CTX *context;
};

static void write_hex(char hex[RB_SHA256_HEX], const unsigned char digest[DIGEST_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < DIGEST_BYTES; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[2 * DIGEST_BYTES] = '\0';
}

rb_status rb_sha256_begin(rb_sha256 **out, rb_error *err)
{
    rb_sha256 *hash = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&hash, 1, sizeof *hash, "SHA-256 state", err), fail);
    hash->context = EVP_MD_CTX_new();
    if (!hash->context || EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL) != 1) {
        st = rb_fail(err, RB_ENOMEM, "OpenSSL could not start a SHA-256");
        goto fail;
    }
    *out = hash;
    return RB_OK;
fail:
    rb_sha256_end(&hash, NULL, NULL);
    return st;
}

rb_status rb_sha256_add(rb_sha256 *hash, const void *bytes, size_t size_bytes, rb_error *err)
{
    if (EVP_DigestUpdate(hash->context, bytes, size_bytes) != 1)
        return rb_fail(err, RB_EINVAL, "OpenSSL refused %zu bytes for a SHA-256", size_bytes);
    return RB_OK;
}

rb_status rb_sha256_end(rb_sha256 **hash, char hex[RB_SHA256_HEX], rb_error *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    rb_status st = RB_OK;
    if (!*hash) return RB_OK;
    if (hex) {
        if (EVP_DigestFinal_ex((*hash)->context, digest, NULL) == 1) write_hex(hex, digest);
        else st = rb_fail(err, RB_EINVAL, "OpenSSL could not finish a SHA-256");
    }
    EVP_MD_CTX_free((*hash)->context);
    free(*hash);
    *hash = NULL;
    return st;
}

rb_status rb_sha256_bytes(char hex[RB_SHA256_HEX], const void *bytes, size_t size_bytes, rb_error *err)
{
    rb_sha256 *hash = NULL;
    rb_status st;
    RB_TRY(st, rb_sha256_begin(&hash, err), done);
    RB_TRY(st, rb_sha256_add(hash, bytes, size_bytes, err), done);
    st = rb_sha256_end(&hash, hex, err);
done:
    rb_sha256_end(&hash, NULL, NULL);
    return st;
}

static rb_status add_stream(rb_sha256 *hash, FILE *file, void *buffer, const char *path, rb_error *err)
{
    size_t n;
    while ((n = fread(buffer, 1, READ_BYTES, file)) > 0) {
        const rb_status st = rb_sha256_add(hash, buffer, n, err);
        if (st != RB_OK) return st;
    }
    if (ferror(file)) return rb_fail(err, RB_EIO, "%s: read failed: %s", path, strerror(errno));
    return RB_OK;
}

rb_status rb_sha256_file(char hex[RB_SHA256_HEX], const char *path, rb_error *err)
{
    FILE *file = NULL;
    void *buffer = NULL;
    rb_sha256 *hash = NULL;
    rb_status st;
    RB_TRY(st, rb_alloc(&buffer, READ_BYTES, 1, "read buffer", err), done);
    RB_TRY(st, rb_sha256_begin(&hash, err), done);
    file = fopen(path, "rb");
    if (!file) {
        st = rb_fail(err, RB_EIO, "%s: %s", path, strerror(errno));
        goto done;
    }
    RB_TRY(st, add_stream(hash, file, buffer, path, err), done);
    st = rb_sha256_end(&hash, hex, err);
done:
    rb_sha256_end(&hash, NULL, NULL);
    if (file) fclose(file);
    free(buffer);
    return st;
}

/* ---- beside other work ----------------------------------------------------------------------- */

struct rb_sha256_task {
    char *path, hex[RB_SHA256_HEX];
    bool is_running;
    pthread_t thread;
    rb_status status;
    rb_error error;
};

static void *run_task(void *argument)
{
    rb_sha256_task *task = argument;
    task->status = rb_sha256_file(task->hex, task->path, &task->error);
    return NULL;
}

rb_status rb_sha256_file_start(rb_sha256_task **out, const char *path, rb_error *err)
{
    rb_sha256_task *task = NULL;
    rb_status st;
    *out = NULL;
    RB_TRY(st, rb_alloc(&task, 1, sizeof *task, "SHA-256 task", err), done);
    RB_TRY(st, rb_format(&task->path, err, "%s", path), done);
    task->is_running = pthread_create(&task->thread, NULL, run_task, task) == 0;
    if (!task->is_running) run_task(task); /* no thread could be started: the work is done now */
    *out = task;
    task = NULL;
done:
    rb_sha256_file_finish(&task, NULL, NULL);
    return st;
}

rb_status rb_sha256_file_finish(rb_sha256_task **task, char hex[RB_SHA256_HEX], rb_error *err)
{
    rb_sha256_task *t = *task;
    rb_status st = RB_OK;
    if (!t) return RB_OK;
    if (t->is_running) pthread_join(t->thread, NULL);
    if (hex && t->status != RB_OK) st = rb_fail(err, t->status, "%s", t->error.msg);
    if (hex) memcpy(hex, t->hex, sizeof t->hex);
    free(t->path);
    free(t);
    *task = NULL;
    return st;
}

/* See core/checksum.h.
 *
 * It is the tag of AES-128-GCM over data that is only authenticated (GMAC, NIST SP 800-38D), with a key that everybody
 * knows: a polynomial over GF(2^128), which OpenSSL computes at 8 GB/s a thread where SHA-256 takes 1.2. */
#include "core/checksum.h"

#include <assert.h>
#include <openssl/evp.h>

rb_status rb_checksum_bytes(rb_checksum *out, const void *bytes, size_t size_bytes, rb_error *err)
{
    static const unsigned char key[16], iv[12];
    unsigned char none[1];
    int n = 0;
    assert(size_bytes <= (size_t)1 << 30);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    const bool is_done = ctx && EVP_EncryptInit_ex(ctx, EVP_aes_128_gcm(), NULL, key, iv) == 1
                         && EVP_EncryptUpdate(ctx, NULL, &n, bytes, (int)size_bytes) == 1
                         && EVP_EncryptFinal_ex(ctx, none, &n) == 1
                         && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, (int)sizeof out->bytes, out->bytes) == 1;
    EVP_CIPHER_CTX_free(ctx);
    return is_done ? RB_OK : rb_fail(err, RB_ENOMEM, "OpenSSL cannot compute a checksum");
}

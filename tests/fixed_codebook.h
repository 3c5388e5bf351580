/* A codec that wins on averages and fails on rare tokens, for tests: what a metric or a judge must catch.
 *
 * A head's mean is taken off its keys; then every RoPE block has one fixed codebook of 2^B points in the plane, made
 * from calibration keys: the codebook of a normal law, mapped by the block's Cholesky factor, then k-means on the keys.
 * No norm is stored, so a key that lies outside what calibration saw is moved to the rim. Bits go to the blocks by what
 * they take off q_energy * error, looking two bits ahead (study/robust.py, kind vq). One thread or many, the same
 * bytes. */
#ifndef RB_TESTS_FIXED_CODEBOOK_H
#define RB_TESTS_FIXED_CODEBOOK_H

#include "core/model_facts.h"

/* Codebooks of the normal law of unit variance, 2 to 2^FIXED_CODEBOOK_MAX_BITS points; shared by all heads. */
enum { FIXED_CODEBOOK_MAX_BITS = 8 };
typedef struct gaussian_books gaussian_books;
rb_status gaussian_books_create(gaussian_books **out, rb_error *err);
void gaussian_books_free(gaussian_books *books);

/* Made for one KV head from calibration queries q [q_per_kv][n_tokens][head_dim] and keys k [n_tokens][head_dim] that
 * enter RoPE. It has floor(true_bits * head_dim) bits a key, all of them codes. */
typedef struct fixed_codebook fixed_codebook;
rb_status fixed_codebook_train(fixed_codebook **out, const gaussian_books *books, const model_facts *model,
                               const float *q, const float *k, int64_t n_tokens, double true_bits, rb_error *err);
void fixed_codebook_free(fixed_codebook *book);

/* k_hat [n_tokens][head_dim]: what is left of k after the codec; k_hat may be k. */
void fixed_codebook_restore(const fixed_codebook *book, const float *k, int64_t n_tokens, float *k_hat);

#endif

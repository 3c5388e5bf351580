/* capture.h5: queries and keys as they enter RoPE, with their statistics. Written by calibrate, read by profile and
 * validate. Layout: docs/capture-h5.md.
 *
 * Attributes of /: schema "ropebits-capture", schema_version, tool_version, the model facts, capture_point
 * ("pre-rope"), options (JSON of the options that made it). /rope/inv_freq. Per set ("calibration", "test"): tokens
 * [n_tokens] i32 with attributes context and tokens_sha256; layer_000/k [H][n_tokens][d], layer_000/q
 * [H*G][n_tokens][d] (and v [H][n_tokens][value_dim] on request), f16 or f32; q_energy [H][n_blocks], k_energy
 * [H][n_blocks], k_mean [H][d] in f64, accumulated in double before any rounding. /output, where values are stored by
 * calibrate: what the model does after the logits. */
#ifndef RB_CALIBRATE_CAPTURE_FILE_H
#define RB_CALIBRATE_CAPTURE_FILE_H

#include <stdbool.h>

#include "calibrate/block_statistics.h"
#include "core/hdf5/hdf5_file.h"
#include "core/model_facts.h"

#define CAPTURE_SCHEMA "ropebits-capture"
enum { CAPTURE_VERSION = 1 };

typedef enum capture_set { CAPTURE_CALIBRATION, CAPTURE_TEST, CAPTURE_N_SETS } capture_set;
const char *capture_set_name(capture_set set); /* "calibration", "test" */

/* /output: what a layer does between its logits and the residual stream. Captures of builds before, imported ones and
 * those without values have none of it. */
typedef struct capture_output {
    bool is_known;
    bool has_metric;                        /* output_metric is there; without a latent cache */
    double softcap;                         /* logits become cap * tanh(x / cap); 0: stay */
    int64_t window[MODEL_FACTS_MAX_LAYERS]; /* keys a query of the layer sees, itself included; 0: all */
} capture_output;

typedef struct capture_header {
    model_facts model;
    text_facts text[CAPTURE_N_SETS];
    rb_h5_type value_type; /* RB_H5_F16 or RB_H5_F32 */
    bool has_values;       /* v is stored too */
    /* Tokens that a set's statistics and residual energies are of; 0: those that are stored. A merged capture may store
     * fewer. */
    int64_t n_counted[CAPTURE_N_SETS];
    capture_output output;
} capture_header;

/* n_counted, or the tokens that are stored where that is 0. */
int64_t capture_n_counted(const capture_header *header, capture_set set);

int64_t capture_token_dims(const capture_header *header);    /* numbers of a token in a layer */
int64_t capture_payload_bytes(const capture_header *header); /* of vectors and metrics, before compression */

/* ---- writing --------------------------------------------------------------------------------- */
typedef struct capture_writer capture_writer;

/* tokens[set]: header->text[set].n_tokens ids. options_json: the options that made the file, stored as text. */
rb_status capture_create(capture_writer **out, const char *path, const capture_header *header,
                         const int32_t *const tokens[CAPTURE_N_SETS], const char *options_json, rb_error *err);
/* The same at a temporary name of the caller's, which stays where the file is not published (rb_h5_create_at). */
rb_status capture_create_at(capture_writer **out, const char *path, const char *tmp_path, const capture_header *header,
                            const int32_t *const tokens[CAPTURE_N_SETS], const char *options_json, rb_error *err);
/* One layer of one set. q [n_q_heads][n_tokens][head_dim], k [n_kv_heads][n_tokens][head_dim], v
 * [n_kv_heads][n_tokens][value_dim], f32; v NULL unless has_values. */
rb_status capture_write_layer(capture_writer *writer, capture_set set, int layer, const float *q, const float *k,
                              const float *v, const block_statistics *statistics, rb_error *err);
/* The same from fp16 bits, for a header of RB_H5_F16. */
rb_status capture_write_layer_f16(capture_writer *writer, capture_set set, int layer, const uint16_t *q,
                                  const uint16_t *k, const uint16_t *v, const block_statistics *statistics,
                                  rb_error *err);
/* With output.has_metric: W^T W of a layer's o_proj for the query heads of each KV head (calibrate/output_metric.h),
 * [n_kv_heads][n][n], n = model_q_per_kv * value_dim. */
rb_status capture_write_output_metric(capture_writer *writer, int layer, const float *metric, rb_error *err);
/* With output.is_known: what the squared norm of an error of the attention's output, as output_metric measures it, is
 * to be divided by. It is the harmonic mean over calibration tokens of |x|^2, x the residual stream that the first norm
 * after the attention reads (after the attention was added, and the MLP too where both read the same input); times the
 * mean square of what o_proj gives, where that goes through a norm before it is added. */
void capture_set_residual_energy(capture_writer *writer, int layer, double energy);
double capture_residual_energy(const capture_writer *writer, int layer); /* as it was set; 0 with no output */
/* Every layer of every set must have been written, and of the output what the header says. */
rb_status capture_publish(capture_writer *writer, rb_error *err);
void capture_writer_free(capture_writer *writer); /* NULL is fine; unpublished: removes the partial file */

/* A layer of all sets as frames (core/hdf5/hdf5_file.h): how many it has; the most bytes of one; those of the layer
 * that was written or taken last, with capture_create_at; and the layer from the frames of the file `fd`, in place of
 * capture_write_layer for every set. `from` names that file in messages. Layers taken and layers written give the same
 * bytes. */
int64_t capture_layer_n_frames(const capture_header *header);
int64_t capture_max_frame_bytes(const capture_header *header);
const rb_h5_frame *capture_layer_frames(const capture_writer *writer);
rb_status capture_take_layer(capture_writer *writer, int layer, int fd, const char *from, const rb_h5_frame *frames,
                             rb_error *err);

/* ---- reading --------------------------------------------------------------------------------- */
typedef struct capture_file capture_file;

rb_status capture_open(capture_file **out, const char *path, rb_error *err);
const capture_header *capture_file_header(const capture_file *file);
const char *capture_file_path(const capture_file *file);
/* From now on the file is read by the threads of `of`, which must stay open: many files at once need no threads of
 * their own. */
void capture_share_threads(capture_file *file, const capture_file *of);
void capture_close(capture_file *file);

/* The options that made the file, JSON as text; freed by free(). */
rb_status capture_read_options(const capture_file *file, char **json, rb_error *err);
rb_status capture_read_tokens(const capture_file *file, capture_set set, int32_t *tokens, rb_error *err);
/* All KV heads of a layer: k [n_kv_heads][n_tokens][head_dim]; all query heads: q [n_q_heads][n_tokens][head_dim].
 * Fails with RB_ENONFINITE naming layer, head and token of the first bad value. */
rb_status capture_read_k(const capture_file *file, capture_set set, int layer, float *k, rb_error *err);
rb_status capture_read_q(const capture_file *file, capture_set set, int layer, float *q, rb_error *err);
/* v [n_kv_heads][n_tokens][value_dim]; only where the header says has_values. */
rb_status capture_read_v(const capture_file *file, capture_set set, int layer, float *v, rb_error *err);
/* metric [n_kv_heads][n][n] as above, with output.has_metric; energy [n_layers] with output.is_known. */
rb_status capture_read_output_metric(const capture_file *file, int layer, float *metric, rb_error *err);
rb_status capture_read_residual_energy(const capture_file *file, double *energy, rb_error *err);
rb_status capture_read_statistics(const capture_file *file, capture_set set, int layer, block_statistics *statistics,
                                  rb_error *err);

#endif

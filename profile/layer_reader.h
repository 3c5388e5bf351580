/* A thread that reads the test text's queries and keys of a capture ahead, layer by layer, into pinned memory. For
 * scoring on the GPU: it reads a layer while the device is at the one before. */
#ifndef RB_PROFILE_LAYER_READER_H
#define RB_PROFILE_LAYER_READER_H

#include <pthread.h>

#include "calibrate/capture_file.h"
#include "core/handover.h"

typedef struct layer_reader {
    const capture_file *capture;
    /* A layer's place is layer % 2: [n_q_heads][n_tokens][head_dim], [n_kv_heads][n_tokens][head_dim]; pinned. */
    float *q[2], *k[2];
    rb_handover *layers;
    pthread_t thread;
    bool is_running;
} layer_reader;

/* Zero-initialise. Call rb_cuda_open before. Layers come in order, each once. Stop also after a failure. */
rb_status layer_reader_start(layer_reader *reader, const capture_file *capture, rb_error *err);
rb_status layer_reader_wait(const layer_reader *reader, rb_error *err); /* until the next layer is there */
void layer_reader_release(const layer_reader *reader, int layer);       /* its place may be read into */
void layer_reader_stop(layer_reader *reader);

#endif

/* Matrices of a checkpoint, read from the file through pinned memory to places on the device.
 *
 * Reader threads take pieces of the matrices in the order in which they were asked for, read each from the file into
 * their pinned memory, and send it on the stream that was named. Where the file's type is not the precision of the
 * pass, the piece is converted on the device. */
#ifndef RB_MODEL_CUDA_WEIGHT_READER_H
#define RB_MODEL_CUDA_WEIGHT_READER_H

#include "model/checkpoint.h"
#include "model/cuda/layer_cuda.h"
#include "model/layer_tensors.h"

typedef struct weight_reader weight_reader;

/* What was asked for since it was zero. */
typedef struct weight_request {
    int64_t pieces_end; /* the piece after its last one */
    int64_t n_bytes;    /* of the file */
} weight_request;

/* Call rb_cuda_open before. n_pieces: room for pieces that nobody has read yet, at least 1. */
rb_status weight_reader_open(weight_reader **out, const checkpoint *ckpt, const layer_cuda_api *api,
                             layer_cuda_precision precision, int n_pieces, rb_error *err);
/* Waits for the threads, not for their streams. */
void weight_reader_stop(weight_reader *reader);
void weight_reader_close(weight_reader *reader);

/* Asks for a matrix of a layer, or of one of its experts: it goes to its place in the weight, which begins at `weight`
 * on the device. Returns at once while there is room for its pieces. */
rb_status weight_reader_add(weight_reader *reader, weight_request *request, const layer_tensor *tensor, int layer,
                            int expert, void *weight, void *stream, rb_error *err);
/* Waits until the file has been read and all is on its way on the streams. */
rb_status weight_reader_wait(weight_reader *reader, const weight_request *request, rb_error *err);

/* Pieces of a matrix, at most; device memory that a reader takes. */
int64_t weight_reader_pieces(const model_config *config, const layer_tensor *tensor);
int64_t weight_reader_device_bytes(void);

#endif

/* The identity of a calibration run: all that the bytes of its capture follow from. */
#ifndef RB_CALIBRATE_RUN_IDENTITY_H
#define RB_CALIBRATE_RUN_IDENTITY_H

#include "calibrate/capture_file.h"
#include "core/program.h"
#include "model/checkpoint.h"

/* A JSON object, freed by free(). Its members are named as a sentence needs them, "a run with other ...":
 *
 *   program files   SHA-256 of the executable; on a GPU, size and time of the CUDA library
 *   hardware        kind of device; OpenBLAS and the kernels that it chose; name of the GPU and its memory limit
 *   options         as the capture records them
 *   model facts     the same; its hash of samples of the weights says what every tensor is (model/weights_identity.h)
 *   weights         a SHA-256 over the path, size and time of every file of weights
 *   tokens          SHA-256 of the ids of both sets, with what was put in front of them
 *
 * The weights are not read as a whole: a file whose samples, size and time are as they were is taken to be the same. */
rb_status run_identity_to_json(char **out, const checkpoint *ckpt, const capture_header *header,
                               const int32_t *const tokens[CAPTURE_N_SETS], const char *options_json,
                               rb_device_kind device, int64_t max_gpu_bytes, rb_error *err);

#endif

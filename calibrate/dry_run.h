/* What `calibrate --dry-run` says: what the run would read, compute and write. The run itself goes up to the point
 * where its pass would start (calibrate_run.c); what is here only describes it. */
#ifndef RB_CALIBRATE_DRY_RUN_H
#define RB_CALIBRATE_DRY_RUN_H

#include "calibrate/calibration_text.h"
#include "calibrate/capture_cuda.h"
#include "calibrate/warnings.h"
#include "core/json.h"

typedef struct dry_run {
    const checkpoint *ckpt;
    const calibrate_options *options;
    const capture_header *header;
    const calibration_text *text; /* empty where no text was given */
    rb_device_kind device;        /* CPU or CUDA */
    int64_t memory_bytes;         /* of a run on the CPU */
    int64_t gpu_bytes, gpu_least_bytes;
    int64_t capture_bytes; /* before compression */

    /* Filled by dry_run_estimate. */
    tensor_use *uses;           /* [checkpoint_n_tensors], owned */
    int64_t vocab_size;         /* of the tokenizer; 0: there is none */
    int64_t n_read, read_bytes; /* tensors that the pass reads */
    double flops, flops_per_s, seconds;
} dry_run;

/* Opens the tokenizer of the model where no ids are given in its place, and estimates the time of the pass: on the CPU
 * from a matrix product that is measured for a tenth of a second, on a GPU from its size and from what such machines
 * read. Fails on a tokenizer that is there and not understood, and where the GPU has too little memory, with the
 * sentence of the run. */
rb_status dry_run_estimate(dry_run *dry, const token_batch *batch, layer_cuda_precision precision,
                           warning_list *warnings, rb_error *err);
void dry_run_free(dry_run *dry);

void dry_run_print(const dry_run *dry);
/* Member "dry_run". */
rb_status dry_run_to_json(cJSON *object, const dry_run *dry, rb_error *err);

/* "factor 8, low_freq_factor 1, ...": the parameters of a RoPE setting beside theta; "" where there are none. */
void dry_run_rope_text(char *text, size_t size, const rope_facts *rope);

#endif

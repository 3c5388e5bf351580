/* ropebits-calibrate: runs a text through a checkpoint and captures the queries and keys that enter RoPE. */
#include "calibrate/calibrate_run.h"
#include "texts/needle_template.h"

int main(int argc, char **argv)
{
    static const char *const dtypes[] = {"f16", "f32", NULL}, *const precisions[] = {"bf16", "f32", NULL};
    calibrate_options opt = {.n_tokens = CALIBRATE_N_TOKENS, .dtype = CAPTURE_DTYPE_F16, .needle_share = CALIBRATE_NEEDLE_SHARE,
                             .needle_template = NEEDLE_TEMPLATE_DEFAULT};
    const rb_option table[] = {
        {.long_name = "model", .kind = RB_OPT_STRING, .value = &opt.model, .metavar = "DIR", .required = true,
         .help = "Hugging Face checkpoint: config.json, safetensors, tokenizer.json"},
        {.long_name = "text", .kind = RB_OPT_REPEATED, .value = &opt.texts, .metavar = "FILE[:W]",
         .help = "calibration text, UTF-8; may be given again: tokens are shared out by weights W, 1 where there is none"},
        {.long_name = "test-text", .kind = RB_OPT_STRING, .value = &opt.test_text, .metavar = "FILE",
         .help = "text that plans are scored on; without it, what follows the calibration tokens"},
        {.long_name = "tokens", .kind = RB_OPT_STRING, .value = &opt.tokens, .metavar = "FILE",
         .help = "token ids instead of --text: JSON list, one id a line, or int32 binary"},
        {.long_name = "test-tokens", .kind = RB_OPT_STRING, .value = &opt.test_tokens, .metavar = "FILE", .help = "token ids instead of --test-text"},
        {.long_name = "n-tokens", .kind = RB_OPT_INT, .value = &opt.n_tokens, .metavar = "N", .min = 1, .max = 1 << 24, .help = "calibration tokens"},
        {.long_name = "n-test-tokens", .kind = RB_OPT_INT, .value = &opt.n_test_tokens, .metavar = "N", .min = 0, .max = 1 << 24,
         .help = "test tokens; 0: as many as calibration tokens"},
        {.long_name = "context", .kind = RB_OPT_INT, .value = &opt.context, .metavar = "N", .min = 0, .max = 1 << 24,
         .help = "tokens per sequence; 0: 2048, or the model's maximum where that is less"},
        {.long_name = "with-needles", .kind = RB_OPT_FLAG, .value = &opt.with_needles,
         .help = "turn part of the calibration sequences into needle documents: facts hidden in the text, and questions about them"},
        {.long_name = "needle-share", .kind = RB_OPT_NUMBER, .value = &opt.needle_share, .metavar = "X", .min = 0, .max = 1,
         .help = "which part, with --with-needles; one sequence at least"},
        {.long_name = "needle-template", .kind = RB_OPT_STRING, .value = &opt.needle_template, .metavar = "NAME",
         .help = "their words, with --with-needles: secret-number, plain, or a file"},
        {.long_name = "dtype", .kind = RB_OPT_CHOICE, .value = &opt.dtype, .metavar = "TYPE", .choices = dtypes,
         .help = "type of stored queries and keys"},
        {.long_name = "precision", .kind = RB_OPT_CHOICE, .value = &opt.precision, .metavar = "TYPE", .choices = precisions,
         .help = "of the matrix products on a GPU; the CPU computes in f32"},
        {.long_name = "max-gpu-memory", .kind = RB_OPT_SIZE, .value = &opt.max_gpu_bytes, .metavar = "SIZE",
         .help = "GPU memory to use at most, such as 12GiB; 0: what is free"},
        {.long_name = "values", .kind = RB_OPT_FLAG, .value = &opt.values, .help = "store the values (V) too"},
        {.long_name = "hash-weights", .kind = RB_OPT_FLAG, .value = &opt.hash_weights, .help = "record the SHA-256 of the weights (reads all of them)"},
        {.long_name = "dry-run", .kind = RB_OPT_FLAG, .value = &opt.dry_run,
         .help = "check that the checkpoint is supported, say what a run would need, and stop"},
        {.short_name = 'o', .long_name = "output", .kind = RB_OPT_STRING, .value = &opt.output, .metavar = "CAPTURE.h5", .help = "the capture"},
    };
    const rb_program program = {
        .name = "calibrate",
        .synopsis = "ropebits calibrate --model DIR --text FILE [--text FILE:WEIGHT ...] [--test-text FILE] [options] -o CAPTURE.h5\n"
                    "ropebits calibrate --model DIR --dry-run",
        .summary = "Runs a text through a checkpoint, layer by layer, and captures the queries and keys that enter RoPE, with their energies.",
        .options = table,
        .n_options = RB_COUNT(table),
        .run = calibrate_run,
        .context = &opt,
    };
    return rb_program_main(&program, argc, argv);
}

/* A GGUF: its metadata and tensors, the config.json and tokenizer.json that it stands for, and its weights. What it
 * says of its tokenizer must be a tokenizer.json that our own reader takes, or fail with a sentence. */
#include "tests/fuzz/fuzz_support.h"

#include "model/gguf/gguf_config.h"
#include "model/gguf/gguf_tokenizer.h"
#include "model/gguf/gguf_weights.h"
#include "model/model_config.h"
#include "model/tokenizer/tokenizer.h"

FUZZ_INITIALIZE

static void read_config(const gguf_file *file)
{
    static model_config config;
    char *text = NULL;
    rb_error err = {0};
    rb_status st = gguf_config_text(&text, file, &err);
    if (st == RB_OK) st = model_config_parse(&config, text, strlen(text), "fuzz", &err);
    fuzz_check(st, &err);
    free(text);
}

static void read_tokenizer(const gguf_file *file)
{
    static const char sample[] = "The quick <s>brown\n fox 123 \xc3\xa9\xe4\xb8\xad";
    tokenizer *words = NULL;
    char *text = NULL;
    size_t length = 0;
    int32_t *ids = NULL;
    int64_t n_ids;
    rb_error err = {0};
    rb_status st = gguf_tokenizer_text(&text, &length, file, &err);
    if (st == RB_OK) st = tokenizer_open_text(&words, text, length, "fuzz", &err);
    if (st == RB_OK) st = tokenizer_encode(words, sample, sizeof sample - 1, &ids, &n_ids, &err);
    fuzz_check(st, &err);
    free(ids);
    free(text);
    tokenizer_close(words);
}

static void read_weights(const gguf_file *file)
{
    enum { MAX_ELEMENTS = 1024 };
    static float values[MAX_ELEMENTS];
    weight_map map = {0};
    rb_error err = {0};
    const rb_status st = gguf_weights_open(&map, file, &err);
    fuzz_check(st, &err);
    for (int64_t i = 0; st == RB_OK && i < map.n_entries; i++) {
        const safetensor *tensor = map.entries[i].tensor;
        rb_error ignored = {0};
        int64_t n = 1;
        for (int r = 0; r < tensor->rank; r++) n *= tensor->shape[r];
        if (n <= MAX_ELEMENTS) fuzz_check(safetensor_to_f32(tensor, 0, n, values, &ignored), &ignored);
    }
    weight_map_close(&map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    gguf_file *file = NULL;
    rb_error err = {0};
    const rb_status st = gguf_open(&file, fuzz_file(0, data, size), &err);
    fuzz_check(st, &err);
    if (st == RB_OK) {
        read_config(file);
        read_tokenizer(file);
        read_weights(file);
    }
    gguf_close(file);
    return 0;
}

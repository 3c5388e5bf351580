/* See model/gguf/gguf_tokenizer.h. */
#include "model/gguf/gguf_tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/message.h"
#include "model/gguf/gguf_merges.h"
#include "model/gguf/gguf_names.h"
#include "model/gguf/json_text.h"

typedef struct tokenizer_writer {
    const gguf_metadata *metadata;
    const char *path;
    gguf_vocabulary vocabulary;
    json_text out;
} tokenizer_writer;

/* ---- pre-tokenizers of gpt2 ------------------------------------------------------------------ */

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define WORDS        CONTRACTIONS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define UPPER        "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER        "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define SPACES       "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Names of tokenizer.ggml.pre, with the regular expressions of the tokenizer.json that they were made from. */
typedef struct pre_tokenizer {
    const char *names[4];
    const char *split; /* cut apart before the bytes; NULL: nothing is */
    bool use_regex;    /* GPT-2's own expression, after the split */
    bool nfc;
    bool ignore_merges; /* a word that is a token is that token */
    bool adds_bos;      /* where the file does not say */
} pre_tokenizer;

static const pre_tokenizer PRE_TOKENIZERS[] = {
    {.names = {"gpt-2", "default"}, .use_regex = true},
    {.names = {"smollm", "starcoder", "refact"}, .split = "\\p{N}", .use_regex = true},
    {.names = {"qwen2", "deepseek-r1-qwen"},
     .split = WORDS "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" SPACES,
     .nfc = true},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3"},
     .split = WORDS "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" SPACES,
     .ignore_merges = true,
     .adds_bos = true},
    {.names = {"smaug-bpe"}, .split = WORDS "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" SPACES},
    {.names = {"tekken"},
     .split = "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER
              "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" SPACES,
     .ignore_merges = true,
     .adds_bos = true},
};

static rb_status find_pre_tokenizer(const pre_tokenizer **out, const tokenizer_writer *w, rb_error *err)
{
    static const char key[] = "tokenizer.ggml.pre";
    gguf_string name = {"default", 7};
    if (gguf_find(w->metadata, key)) {
        const rb_status st = gguf_get_string(w->metadata, key, &name, err);
        if (st != RB_OK) return st;
    }
    if (gguf_string_is(name, "default"))
        rb_message_warn("%s: %s does not say how text is cut into words: GPT-2's rule is used", w->path, key);
    for (size_t i = 0; i < RB_COUNT(PRE_TOKENIZERS); i++)
        for (size_t j = 0; j < RB_COUNT(PRE_TOKENIZERS[i].names); j++)
            if (PRE_TOKENIZERS[i].names[j] && gguf_string_is(name, PRE_TOKENIZERS[i].names[j])) {
                *out = &PRE_TOKENIZERS[i];
                return RB_OK;
            }
    return rb_fail(err, RB_EUNSUPPORTED,
                   "%s is \"%.*s\", whose regular expression is not known here; run the folder that the GGUF was made "
                   "from",
                   key, (int)(name.length < 64 ? name.length : 64), name.at);
}

/* ---- parts of the document ------------------------------------------------------------------- */

static void put_token(tokenizer_writer *w, int32_t id)
{
    const gguf_string text = w->vocabulary.tokens[id].text;
    json_text_put_string(&w->out, text.at, text.length);
}

static void put_vocabulary(tokenizer_writer *w)
{
    json_text_put(&w->out, "\"vocab\":{");
    for (int32_t id = 0; id < w->vocabulary.n_tokens; id++) {
        if (id) json_text_put(&w->out, ",\n");
        put_token(w, id);
        json_text_put(&w->out, ":%d", (int)id);
    }
    json_text_put(&w->out, "}");
}

static void put_added_tokens(tokenizer_writer *w)
{
    const char *between = "";
    json_text_put(&w->out, "\"added_tokens\":[");
    for (int32_t id = 0; id < w->vocabulary.n_tokens; id++) {
        const int kind = w->vocabulary.tokens[id].kind;
        if ((kind != GGUF_TOKEN_CONTROL && kind != GGUF_TOKEN_USER_DEFINED) || !w->vocabulary.tokens[id].text.length)
            continue;
        json_text_put(&w->out, "%s{\"id\":%d,\"content\":", between, (int)id);
        put_token(w, id);
        json_text_put(&w->out,
                      ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":%s}",
                      kind == GGUF_TOKEN_CONTROL ? "true" : "false");
        between = ",\n";
    }
    json_text_put(&w->out, "],\n");
}

/* A special token by the key of its id; `fallback` where the file does not say, -1: it must. */
static rb_status get_token_id(const tokenizer_writer *w, const char *key, int32_t fallback, int32_t *out, rb_error *err)
{
    int64_t id = fallback;
    rb_status st = RB_OK;
    if (fallback < 0 || gguf_find(w->metadata, key))
        st = gguf_get_int(w->metadata, key, 0, w->vocabulary.n_tokens - 1, &id, err);
    if (st == RB_OK && id >= w->vocabulary.n_tokens)
        return rb_fail(err, RB_EFORMAT, "no metadata \"%s\", and no token %lld", key, (long long)id);
    *out = (int32_t)id;
    return st;
}

static rb_status put_post_processor(tokenizer_writer *w, bool adds_bos, int32_t default_bos, rb_error *err)
{
    int32_t bos = 0;
    rb_status st;
    RB_TRY(st, gguf_get_bool(w->metadata, "tokenizer.ggml.add_bos_token", adds_bos, &adds_bos, err), done);
    if (!adds_bos) {
        json_text_put(&w->out, "\"post_processor\":null,\n");
        return RB_OK;
    }
    RB_TRY(st, get_token_id(w, "tokenizer.ggml.bos_token_id", default_bos, &bos, err), done);
    json_text_put(&w->out,
                  "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":");
    put_token(w, bos);
    json_text_put(&w->out, ",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[{\"SpecialToken\":"
                           "{\"id\":");
    put_token(w, bos);
    json_text_put(&w->out, ",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":");
    put_token(w, bos);
    json_text_put(&w->out, ",\"type_id\":1}},{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],\"special_tokens\":{");
    put_token(w, bos);
    json_text_put(&w->out, ":{\"id\":");
    put_token(w, bos);
    json_text_put(&w->out, ",\"ids\":[%d],\"tokens\":[", (int)bos);
    put_token(w, bos);
    json_text_put(&w->out, "]}}},\n");
done:
    return st;
}

/* Opens the model, up to its vocabulary. */
static void put_model_head(tokenizer_writer *w)
{
    json_text_put(&w->out, "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"continuing_subword_prefix\":null,"
                           "\"end_of_word_suffix\":null,");
}

/* ---- gpt2 ------------------------------------------------------------------------------------ */

static void put_byte_level(tokenizer_writer *w, bool use_regex)
{
    json_text_put(&w->out, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":%s}",
                  use_regex ? "true" : "false");
}

static void put_pre_tokenizer(tokenizer_writer *w, const pre_tokenizer *pre)
{
    json_text_put(&w->out, "\"normalizer\":%s,\n\"pre_tokenizer\":", pre->nfc ? "{\"type\":\"NFC\"}" : "null");
    if (pre->split) {
        json_text_put(&w->out, "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":");
        json_text_put_string(&w->out, pre->split, strlen(pre->split));
        json_text_put(&w->out, "},\"behavior\":\"Isolated\",\"invert\":false},");
    }
    put_byte_level(w, pre->use_regex);
    json_text_put(&w->out, pre->split ? "]},\n\"decoder\":" : ",\n\"decoder\":");
    put_byte_level(w, true);
    json_text_put(&w->out, ",\n");
}

/* Merges as the file has them, "a b". */
static rb_status put_merges(tokenizer_writer *w, rb_error *err)
{
    const gguf_entry *merges = NULL;
    const rb_status st = gguf_get_array(w->metadata, "tokenizer.ggml.merges", GGUF_STRING, &merges, err);
    if (st != RB_OK) return st;
    gguf_cursor items = merges->value;
    json_text_put(&w->out, ",\n\"merges\":[");
    for (int64_t i = 0; i < merges->n_items; i++) {
        const gguf_string merge = gguf_next_string(&items);
        if (memchr(merge.at, '\0', merge.length))
            return rb_fail(err, RB_EFORMAT, "tokenizer.ggml.merges: merge %lld is not UTF-8 text", (long long)i);
        if (i) json_text_put(&w->out, ",\n");
        json_text_put_string(&w->out, merge.at, merge.length);
    }
    json_text_put(&w->out, "]");
    return RB_OK;
}

static rb_status put_gpt2(tokenizer_writer *w, rb_error *err)
{
    const pre_tokenizer *pre = NULL;
    rb_status st;
    RB_TRY(st, gguf_vocabulary_read(&w->vocabulary, w->metadata, false, err), done);
    RB_TRY(st, find_pre_tokenizer(&pre, w, err), done);
    put_added_tokens(w);
    put_pre_tokenizer(w, pre);
    RB_TRY(st, put_post_processor(w, pre->adds_bos, -1, err), done);
    put_model_head(w);
    json_text_put(&w->out, "\"unk_token\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":%s,\n",
                  pre->ignore_merges ? "true" : "false");
    put_vocabulary(w);
    st = put_merges(w, err);
done:
    return st;
}

/* ---- sentencepiece --------------------------------------------------------------------------- */

#define SPACE "\xe2\x96\x81" /* U+2581 stands for a space */

static rb_status put_merges_of_scores(tokenizer_writer *w, rb_error *err)
{
    gguf_merge *merges = NULL;
    int64_t n_merges = 0;
    const rb_status st = gguf_merges_of_scores(&merges, &n_merges, &w->vocabulary, err);
    json_text_put(&w->out, ",\n\"merges\":[");
    for (int64_t i = 0; st == RB_OK && i < n_merges; i++) {
        const gguf_string piece = w->vocabulary.tokens[merges[i].piece].text;
        const size_t left = (size_t)merges[i].left_bytes;
        json_text_put(&w->out, i ? ",\n[" : "[");
        json_text_put_string(&w->out, piece.at, left);
        json_text_put(&w->out, ",");
        json_text_put_string(&w->out, piece.at + left, piece.length - left);
        json_text_put(&w->out, "]");
    }
    json_text_put(&w->out, "]");
    free(merges);
    return st;
}

/* Spaces become U+2581; where the file says so, one is put before the text (and that is all that stands between Llama's
 * tokenizer and Gemma's). */
static rb_status put_spaces(tokenizer_writer *w, rb_error *err)
{
    static const char replace[] = "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" SPACE "\"}";
    const gguf_architecture *architecture = NULL;
    bool adds_space = true;
    rb_status st;
    RB_TRY(st, gguf_architecture_of(&architecture, w->metadata, err), done);
    adds_space = strcmp(architecture->name, "gemma3") != 0;
    RB_TRY(st, gguf_get_bool(w->metadata, "tokenizer.ggml.add_space_prefix", adds_space, &adds_space, err), done);
    if (adds_space)
        json_text_put(
            &w->out,
            "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"" SPACE
            "\"},%s]},\n\"pre_tokenizer\":null,\n",
            replace);
    else
        json_text_put(&w->out,
                      "\"normalizer\":%s,\n\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},"
                      "\"behavior\":\"MergedWithPrevious\",\"invert\":false},\n",
                      replace);
    json_text_put(&w->out,
                  "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
                  "\"" SPACE "\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}%s]},\n",
                  adds_space ? ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}" : "");
done:
    return st;
}

static rb_status put_sentencepiece(tokenizer_writer *w, rb_error *err)
{
    /* What llama.cpp takes where the file does not say. */
    enum { DEFAULT_BOS = 1, DEFAULT_UNKNOWN = 0 };
    int32_t unknown = 0;
    rb_status st;
    RB_TRY(st, gguf_vocabulary_read(&w->vocabulary, w->metadata, true, err), done);
    put_added_tokens(w);
    RB_TRY(st, put_spaces(w, err), done);
    RB_TRY(st, put_post_processor(w, true, DEFAULT_BOS, err), done);
    RB_TRY(st, get_token_id(w, "tokenizer.ggml.unknown_token_id", DEFAULT_UNKNOWN, &unknown, err), done);
    put_model_head(w);
    json_text_put(&w->out, "\"unk_token\":");
    put_token(w, unknown);
    json_text_put(&w->out, ",\"fuse_unk\":true,\"byte_fallback\":true,\"ignore_merges\":false,\n");
    put_vocabulary(w);
    st = put_merges_of_scores(w, err);
done:
    return st;
}

/* ---- public ---------------------------------------------------------------------------------- */

static rb_status put_document(tokenizer_writer *w, rb_error *err)
{
    gguf_string kind = {"", 0};
    rb_status st;
    RB_TRY(st, gguf_get_string(w->metadata, "tokenizer.ggml.model", &kind, err), done);
    json_text_put(&w->out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n");
    if (gguf_string_is(kind, "gpt2")) st = put_gpt2(w, err);
    else if (gguf_string_is(kind, "llama")) st = put_sentencepiece(w, err);
    else
        st = rb_fail(err, RB_EUNSUPPORTED, "tokenizer.ggml.model is \"%.*s\", expected gpt2 or llama",
                     (int)(kind.length < 64 ? kind.length : 64), kind.at);
    json_text_put(&w->out, "}}\n");
    if (st == RB_OK) st = json_text_status(&w->out, err);
done:
    return st;
}

rb_status gguf_tokenizer_text(char **text, size_t *length, const gguf_file *file, rb_error *err)
{
    tokenizer_writer w = {.metadata = gguf_metadata_of(file), .path = gguf_path(file)};
    const rb_status st = put_document(&w, err);
    gguf_vocabulary_free(&w.vocabulary);
    *text = NULL;
    if (st != RB_OK) {
        free(w.out.at);
        return rb_fail_in(err, st, "%s", gguf_path(file));
    }
    *text = w.out.at;
    *length = w.out.length;
    return st;
}

/* A mutator that knows JSON: it changes the document's tree, so that its inputs pass the parser. Include once in a
 * target whose input is JSON, alone or up to a NUL byte with other bytes after it. One input in four is changed as
 * bytes, for the parser's own sake. */
#ifndef RB_TESTS_FUZZ_JSON_MUTATOR_H
#define RB_TESTS_FUZZ_JSON_MUTATOR_H

#include <cjson/cJSON.h>

#include "tests/fuzz/fuzz_support.h"

static unsigned json_mutator_state;

static inline unsigned json_mutator_random(unsigned below)
{
    json_mutator_state = json_mutator_state * 1664525u + 1013904223u;
    return (json_mutator_state >> 8) % below;
}

static inline int json_mutator_count(const cJSON *json)
{
    int n = 1;
    const cJSON *child;
    cJSON_ArrayForEach (child, json) n += json_mutator_count(child);
    return n;
}

/* Node *index of the tree, in the order of the text. */
static inline cJSON *json_mutator_find(cJSON *json, int *index)
{
    cJSON *child, *found = NULL;
    if ((*index)-- == 0) return json;
    cJSON_ArrayForEach (child, json)
        if (!found) found = json_mutator_find(child, index);
    return found;
}

static inline cJSON *json_mutator_node(cJSON *root)
{
    int index = (int)json_mutator_random((unsigned)json_mutator_count(root));
    return json_mutator_find(root, &index);
}

static inline double json_mutator_number(double old)
{
    static const double interesting[] = {
        0,     1,      -1,    2,     3,     4,   8,    16,   32,         64,          127,
        128,   255,    256,   65535, 65536, 0.5, -0.5, 1e-9, 2147483647, 4294967296., 9007199254740993.,
        1e300, 1e-300, -1e300};
    switch (json_mutator_random(5)) {
    case 0: return old + 1;
    case 1: return old - 1;
    case 2: return old * (json_mutator_random(2) ? 2 : 0.5);
    case 3: return (double)json_mutator_random(300) - 20;
    default: return interesting[json_mutator_random(sizeof interesting / sizeof *interesting)];
    }
}

/* A few bytes changed, in place or one longer. */
static inline char *json_mutator_string(const char *old)
{
    static const char *const pieces[] = {"*/",     "\x1b[2J",      "\"",   "\\",   "{",
                                         "(a+)+$", "\xe2\x80\xae", "\xff", "</s>", ","};
    const size_t length = strlen(old), at = length ? json_mutator_random((unsigned)length + 1) : 0;
    const char *piece = pieces[json_mutator_random(10)];
    char *text = malloc(length + 16);
    if (!text) abort();
    memcpy(text, old, length + 1);
    switch (json_mutator_random(3)) {
    case 0:
        if (at < length) text[at] = (char)(1 + json_mutator_random(255));
        break;
    case 1: text[at] = '\0'; break;
    default: snprintf(text, length + 16, "%.*s%s%s", (int)at, old, piece, old + at); break;
    }
    return text;
}

static inline bool json_mutator_contains(const cJSON *json, const cJSON *node)
{
    const cJSON *child;
    if (json == node) return true;
    cJSON_ArrayForEach (child, json)
        if (json_mutator_contains(child, node)) return true;
    return false;
}

/* Another node of the document in this one's place, its key kept. */
static inline void json_mutator_graft(cJSON *node, const cJSON *from)
{
    if (from == node || json_mutator_count(from) > 4096) return;
    cJSON *copy = cJSON_Duplicate(from, 1);
    if (!copy) abort();
    cJSON *const old_child = node->child;
    char *const old_string = node->valuestring;
    node->type = (node->type & ~0xff) | (copy->type & 0xff);
    node->child = copy->child;
    node->valuestring = copy->valuestring;
    node->valuedouble = copy->valuedouble;
    node->valueint = copy->valueint;
    copy->child = old_child;
    copy->valuestring = old_string;
    cJSON_Delete(copy);
}

static inline void json_mutator_members(cJSON *node, cJSON *root)
{
    const int n = cJSON_GetArraySize(node);
    const int at = n ? (int)json_mutator_random((unsigned)n) : 0;
    cJSON *copy = NULL;
    switch (json_mutator_random(3)) {
    case 0:
        if (n) cJSON_Delete(cJSON_DetachItemViaPointer(node, cJSON_GetArrayItem(node, at)));
        return;
    case 1:
        if (n) copy = cJSON_Duplicate(cJSON_GetArrayItem(node, at), 1);
        break;
    default: {
        const cJSON *from = json_mutator_node(root);
        if (json_mutator_count(from) < 4096) copy = cJSON_Duplicate(from, 1);
        break;
    }
    }
    if (!copy) return;
    if (cJSON_IsObject(node)) cJSON_AddItemToObject(node, copy->string ? copy->string : "x", copy);
    else cJSON_AddItemToArray(node, copy);
}

static inline void json_mutator_change(cJSON *root)
{
    cJSON *node = json_mutator_node(root);
    if (json_mutator_random(8) == 0) {
        const cJSON *from = json_mutator_node(root);
        /* A node inside the one that it replaces would be freed with it. */
        if (json_mutator_contains(node, from) || json_mutator_contains(from, node)) return;
        json_mutator_graft(node, from);
    } else if (cJSON_IsNumber(node)) {
        cJSON_SetNumberHelper(node, json_mutator_number(node->valuedouble));
    } else if (cJSON_IsString(node)) {
        char *text = json_mutator_string(node->valuestring);
        free(node->valuestring);
        node->valuestring = text;
    } else if (cJSON_IsBool(node)) {
        node->type = (node->type & ~0xff) | (cJSON_IsTrue(node) ? cJSON_False : cJSON_True);
    } else if (cJSON_IsArray(node) || cJSON_IsObject(node)) {
        json_mutator_members(node, root);
    }
}

/* The document of the first `length` bytes in another form; its size, or 0 where it is none or has no room. */
static inline size_t json_mutator_document(uint8_t *data, size_t length, size_t max_size)
{
    cJSON *root = cJSON_ParseWithLength((const char *)data, length);
    size_t size = 0;
    if (!root) return 0;
    for (unsigned n = 1 + json_mutator_random(3); n > 0; n--) json_mutator_change(root);
    char *text = cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    if (text && strlen(text) <= max_size) {
        size = strlen(text);
        memcpy(data, text, size);
    }
    free(text);
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    json_mutator_state = seed;
    if (json_mutator_random(4) == 0 || size == 0) return LLVMFuzzerMutate(data, size, max_size);
    const uint8_t *nul = memchr(data, 0, size);
    const size_t length = nul ? (size_t)(nul - data) : size, n_rest = size - length;
    uint8_t *rest = malloc(max_size + 1);
    if (!rest) abort();
    memcpy(rest, data + length, n_rest);
    size_t made = 0;
    if (n_rest > 1 && json_mutator_random(3) == 0) { /* the bytes after the document */
        made = length + 1 + LLVMFuzzerMutate(data + length + 1, n_rest - 1, max_size - length - 1);
    } else if ((made = json_mutator_document(data, length, max_size - n_rest)) > 0) {
        memcpy(data + made, rest, n_rest);
        made += n_rest;
    } else {
        made = LLVMFuzzerMutate(data, size, max_size);
    }
    free(rest);
    return made;
}

#endif

/* Many strings looked for at once: a trie over bytes. */
#ifndef RB_MODEL_TOKENIZER_BYTE_TRIE_H
#define RB_MODEL_TOKENIZER_BYTE_TRIE_H

#include <stddef.h>
#include <stdint.h>

#include "core/status.h"

typedef struct trie_node {
    int32_t child, sibling; /* node index, 0: none (the root is nobody's child) */
    int32_t value;          /* of the string that ends here, -1: none */
    unsigned char byte;
} trie_node;

typedef struct byte_trie {
    trie_node *nodes; /* nodes[0] is the root; NULL: no strings yet */
    int32_t n_nodes, capacity;
    int32_t first[256]; /* children of the root by byte, 0: none */
} byte_trie;

/* Adds a non-empty string with a value >= 0. Each string once. */
rb_status byte_trie_add(byte_trie *trie, const char *text, size_t length, int32_t value, rb_error *err);
void byte_trie_release(byte_trie *trie);

/* The longest string that `text` starts with: its value, and its size; -1 when there is none. */
int32_t byte_trie_longest(const byte_trie *trie, const char *text, size_t length, size_t *size);

#endif

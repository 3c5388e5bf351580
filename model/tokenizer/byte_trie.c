/* A trie over bytes: see byte_trie.h. */
#include "model/tokenizer/byte_trie.h"

#include <stdlib.h>

static rb_status new_node(byte_trie *trie, unsigned char byte, int32_t *out, rb_error *err)
{
    if (trie->n_nodes == trie->capacity) {
        const int32_t capacity = trie->capacity > INT32_MAX / 2 - 64 ? 0 : trie->capacity * 2 + 64;
        trie_node *nodes = capacity ? realloc(trie->nodes, (size_t)capacity * sizeof *nodes) : NULL;
        if (!nodes) return rb_fail(err, RB_ENOMEM, "added tokens: out of memory for a trie of %d nodes", trie->n_nodes);
        trie->nodes = nodes;
        trie->capacity = capacity;
    }
    *out = trie->n_nodes++;
    trie->nodes[*out] = (trie_node){.value = -1, .byte = byte};
    return RB_OK;
}

static int32_t find_child(const byte_trie *trie, int32_t node, unsigned char byte)
{
    if (node == 0) return trie->first[byte];
    int32_t child = trie->nodes[node].child;
    while (child != 0 && trie->nodes[child].byte != byte) child = trie->nodes[child].sibling;
    return child;
}

static rb_status add_child(byte_trie *trie, int32_t node, unsigned char byte, int32_t *out, rb_error *err)
{
    const rb_status st = new_node(trie, byte, out, err);
    if (st != RB_OK) return st;
    if (node == 0) {
        trie->first[byte] = *out;
    } else {
        trie->nodes[*out].sibling = trie->nodes[node].child;
        trie->nodes[node].child = *out;
    }
    return RB_OK;
}

rb_status byte_trie_add(byte_trie *trie, const char *text, size_t length, int32_t value, rb_error *err)
{
    int32_t node = 0;
    rb_status st = RB_OK;
    if (!trie->nodes) RB_TRY(st, new_node(trie, 0, &node, err), done);
    for (size_t i = 0; i < length; i++) {
        int32_t child = find_child(trie, node, (unsigned char)text[i]);
        if (child == 0) RB_TRY(st, add_child(trie, node, (unsigned char)text[i], &child, err), done);
        node = child;
    }
    trie->nodes[node].value = value;
done:
    return st;
}

void byte_trie_release(byte_trie *trie)
{
    free(trie->nodes);
    *trie = (byte_trie){0};
}

int32_t byte_trie_longest(const byte_trie *trie, const char *text, size_t length, size_t *size)
{
    int32_t node = 0, value = -1;
    for (size_t i = 0; i < length; i++) {
        node = find_child(trie, node, (unsigned char)text[i]);
        if (node == 0) break;
        if (trie->nodes[node].value >= 0) {
            value = trie->nodes[node].value;
            *size = i + 1;
        }
    }
    return value;
}

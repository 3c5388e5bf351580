/* What cppcheck does not know of the libraries' headers, which it does not read. */
#define cJSON_ArrayForEach(element, array) \
    for (element = array ? (array)->child : NULL; element != NULL; element = element->next)

# Programs and libraries are built to stop where memory was overwritten, and to be loaded at addresses that nobody
# knows (SECURITY.md): what the linker and the compiler were told is read from the files.
. tests/programs/tap.sh

if ! command -v readelf >/dev/null 2>&1 || ! command -v objdump >/dev/null 2>&1; then
    skip_case "hardened programs and libraries" "readelf and objdump are not installed (Debian: binutils)"
    finish
fi

# lacking PATTERN READELF_OPTION FILE...: the files whose readelf output has no such line.
lacking() {
    local pattern=$1 option=$2 file; shift 2
    for file; do readelf "$option" -W "$file" 2>/dev/null | grep -qE -- "$pattern" || echo "$file"; done
}

programs=("$bin"/ropebits*)
libraries=("$build"/lib/libropebits_*.so "$build"/lib/hdf5-plugin/*.so)
[ -e "$build/lib/ropebits_cuda.so" ] && libraries+=("$build/lib/ropebits_cuda.so")
files=("${programs[@]}" "${libraries[@]}")
check "there are programs and libraries" test ${#programs[@]} -gt 10 -a ${#libraries[@]} -gt 2
none "programs are position-independent" "$(lacking 'Type: +DYN' -h "${programs[@]}")"
none "tables of the linker are read-only once they are filled" "$(lacking GNU_RELRO -l "${files[@]}")"
none "  which they are before anything runs" "$(lacking 'BIND_NOW|Flags:.* NOW' -d "${files[@]}")"
none "no stack is executable" "$(lacking 'GNU_STACK.* RW +0x' -l "${files[@]}")"
[ "$RB_SANITIZED" = 0 ] || { skip_case "checks of stack and buffers" "a sanitizer has its own"; finish; }

# Not the plugin, which has no buffers on its stack, nor what nvcc links.
own=("${programs[@]}" "$build"/lib/libropebits_*.so)
none "functions check their stack" "$(lacking __stack_chk_fail -s "${own[@]}")"
none "glibc's functions check the sizes of buffers" "$(lacking '__[a-z]+_chk(@|$| )' -s "${programs[@]}")"
if echo 'int main(void) { return 0; }' | ${CC:-gcc} -fcf-protection -x c -c - -o "$scratch/a.o" 2>/dev/null; then
    few=""
    for file in "${own[@]}"; do
        [ "$(objdump -d "$file" | grep -cE 'endbr64|endbr32')" -gt 20 ] || few="$few $file"
    done
    none "functions that pointers may lead to say so (CET)" "$few"
else
    skip_case "functions that pointers may lead to say so (CET)" "the compiler has no -fcf-protection"
fi

finish

# A boot sector that counts on the first serial port, eight hexadecimal digits a line.
.code16
.globl _start
_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7c00, %sp
    xor %ebx, %ebx
next:
    inc %ebx
    mov %ebx, %edx
    mov $8, %cx
digit:
    rol $4, %edx
    mov %dl, %al
    and $15, %al
    add $'0', %al
    cmp $'9', %al
    jbe 1f
    add $39, %al
1:  call put
    loop digit
    mov $'\n', %al
    call put
    # Not faster than a file is written.
    mov $20000, %ecx
2:  dec %ecx
    jnz 2b
    jmp next
put:
    push %dx
    push %ax
    mov $0x3fd, %dx
3:  in %dx, %al
    test $0x20, %al
    jz 3b
    pop %ax
    mov $0x3f8, %dx
    out %al, %dx
    pop %dx
    ret
.org 510
.word 0xaa55

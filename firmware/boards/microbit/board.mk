CPU_FLAGS := -mcpu=cortex-m0 -mthumb -mfloat-abi=soft
TIMER := # the board's own

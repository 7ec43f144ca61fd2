FAMILY := mps2
CPU_FLAGS := -mcpu=cortex-m3 -mthumb -mfloat-abi=soft

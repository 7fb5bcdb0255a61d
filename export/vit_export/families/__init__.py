"""Which ViTs are known: what each is, as data, and under which names its tensors are stored."""

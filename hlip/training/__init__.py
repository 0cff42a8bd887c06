"""What both verbs need to train: batches, augmentation, optimizer, engine, run folders, curves."""

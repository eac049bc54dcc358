"""What figures are made with: one style, one grammar, one way to save. The figures stand beside their measurements."""

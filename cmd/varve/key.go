package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/varvebackup/varve/crypt"
	"github.com/varvebackup/varve/repo"
)

// slotJSON is a slot wherever one is printed.
type slotJSON struct {
	ID      string     `json:"id"`
	Role    string     `json:"role,omitempty"`
	Kind    string     `json:"kind,omitempty"`
	Label   string     `json:"label"`
	Created *time.Time `json:"created,omitempty"`
	Current bool       `json:"current"`
	Error   string     `json:"error,omitempty"`
}

type keyAddJSON struct {
	Slot slotJSON `json:"slot"`
	Key  string   `json:"key,omitempty"`
}

func slotOf(s *repo.Slot) slotJSON {
	if s.Damage != nil {
		return slotJSON{ID: s.ID, Error: s.Damage.Error()}
	}
	created := s.Created.UTC()
	return slotJSON{ID: s.ID, Role: s.Role.String(), Kind: s.Kind, Label: s.Label, Created: &created, Current: s.Current}
}

func (a *app) keyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "List, add and remove ways to unlock the repository",
		Long: `List, add and remove slots: ways to unlock the repository, each with a role.
  writer       backs up and lists snapshots; reads no content and no file name
  maintainer   also reads names, checks, forgets and prunes; reads no content
  owner        does all`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.keyListCmd(), a.keyAddCmd(), a.keyRemoveCmd())
	return cmd
}

const slotHelp = `{id, role, kind, label, created, current}. kind is passphrase or key; current:
this one was used. Of a slot that is damaged there are only id and error.`

func (a *app) keyListCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the slots",
		Long: `List the slots. A star marks the one that was used.

JSON: {slots: [SLOT]}, where SLOT is
` + slotHelp,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.keyList(cmd.Context()) },
	}
}

func (a *app) keyList(ctx context.Context) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	slots, err := r.Slots(ctx)
	if err != nil {
		return err
	}
	all := []slotJSON{}
	for i := range slots {
		all = append(all, slotOf(&slots[i]))
	}
	if a.json {
		return a.writeJSON(map[string]any{"slots": all})
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, " \tID\tROLE\tKIND\tCREATED\tLABEL")
	for _, s := range all {
		if s.Error != "" {
			fmt.Fprintf(w, " \t%s\tdamaged\t\t\t%s\n", s.ID, printable(s.Error))
			continue
		}
		star := " "
		if s.Current {
			star = "*"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", star, s.ID, s.Role, printable(s.Kind), local(*s.Created), printable(s.Label))
	}
	return w.Flush()
}

type keyAddFlags struct {
	role, label, passphraseFile string
	generate                    bool
}

func (a *app) keyAddCmd() *cobra.Command {
	var f keyAddFlags
	cmd := &cobra.Command{
		Use:   "add --role writer|maintainer|owner",
		Short: "Add a slot",
		Long: `Add a slot, which an owner may do. The new secret is a passphrase, from the file
that --new-passphrase-file names or else asked for on the terminal, twice; with
--generate it is a new random key, which is printed, once, and goes where
VARVE_KEY or VARVE_KEY_FILE finds it.

JSON: {slot: SLOT, key}; SLOT is described at "varve key list", and there is a
key with --generate only.`,
		Args:              arguments(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return a.keyAdd(cmd.Context(), &f) },
	}
	cmd.Flags().StringVar(&f.role, "role", "", "what the new key may do: writer, maintainer or owner")
	cmd.Flags().StringVar(&f.label, "label", "", "a name for people; it is not encrypted")
	cmd.Flags().StringVar(&f.passphraseFile, "new-passphrase-file", "", "take the new passphrase from `FILE`, but the newline at its end")
	cmd.Flags().BoolVar(&f.generate, "generate", false, "make a random key and print it")
	cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"writer", "maintainer", "owner"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (a *app) keyAdd(ctx context.Context, f *keyAddFlags) error {
	role, err := crypt.ParseRole(f.role)
	if err != nil {
		return errors.New("--role says what the new key may do: it is one of writer, maintainer and owner")
	}
	if f.generate && f.passphraseFile != "" {
		return errors.New("give --generate or --new-passphrase-file, not both")
	}
	var u crypt.Unlocker
	if f.passphraseFile != "" {
		text, err := secretOfFile(f.passphraseFile)
		if err != nil {
			return fmt.Errorf("--new-passphrase-file: %w", err)
		}
		u = crypt.Passphrase(text)
	}
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Role() != crypt.Owner {
		return fmt.Errorf("only an owner adds keys, and this key is a %s's: %w", r.Role(), repo.ErrRole)
	}
	var doc keyAddJSON
	switch {
	case u != nil:
	case f.generate:
		k, err := crypt.NewKey()
		if err != nil {
			return err
		}
		u, doc.Key = k, k.Text()
	default:
		u, err = a.askTwice(ctx)
		if errors.Is(err, errNoTerminal) {
			return errors.New("there is no terminal to ask for the new passphrase on: give --new-passphrase-file or --generate")
		} else if err != nil {
			return err
		}
	}
	slot, err := r.AddSlot(ctx, role, u, f.label)
	if err != nil {
		return err
	}
	doc.Slot = slotOf(slot)
	if a.json {
		return a.writeJSON(doc)
	}
	if _, err := fmt.Fprintf(a.out, "added %s, a slot of kind %s with the role %s\n", slot.ID, slot.Kind, slot.Role); err != nil || doc.Key == "" {
		return err
	}
	_, err = fmt.Fprintf(a.out, "\nIts key, which is shown this once and kept nowhere, is\n\n    %s\n", doc.Key)
	return err
}

func (a *app) keyRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "remove ID",
		Short: "Remove a slot",
		Long: `Remove the slot whose id begins with ID, which an owner may do. The slot in use
and the last owner's slot stay.

Whoever unlocked it once may have kept what was in it: against a thief, removing
a slot is no help.

JSON: {removed}, the slot's id.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.keyRemove(cmd.Context(), args[0]) },
	}
}

func (a *app) keyRemove(ctx context.Context, prefix string) error {
	r, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	before, err := r.Slots(ctx)
	if err != nil {
		return err
	}
	if err := r.RemoveSlot(ctx, prefix); err != nil {
		return at(stepSlot, prefix, err)
	}
	id := prefix
	for _, s := range before {
		if len(s.ID) >= len(prefix) && s.ID[:len(prefix)] == prefix {
			id = s.ID
		}
	}
	if a.json {
		return a.writeJSON(map[string]string{"removed": id})
	}
	_, err = fmt.Fprintf(a.out, "removed %s\n", printable(id))
	return err
}

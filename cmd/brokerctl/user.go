package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/oncelog/oncelog/client"
)

func (p *program) userCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "user",
		Short: "List users, set passwords, delete users",
		Long: `Users prove who they are by a password (SASL). Brokers keep what checks a password, and
not the password; neither is sent to them. What a user may do, brokerctl acl says.`,
		Example: `  brokerctl user set alice --new-password-file alice.txt
  brokerctl user list
  brokerctl user delete alice`,
	})
	cmd.AddCommand(p.userSet(), p.userList(), p.userDelete())
	return cmd
}

func (p *program) userSet() *cobra.Command {
	var file string
	var iterations int
	var mechanisms []string
	cmd := &cobra.Command{
		Use:   "set USER",
		Short: "Make a user, or give it another password",
		Long: `set makes a user, or gives it another password, for both SCRAM mechanisms or those
named. The password is the first line of --new-password-file, or of standard input. It is
not sent: brokers get what checks it. Connections that are open go on.`,
		Example: `  brokerctl user set alice --new-password-file alice.txt
  openssl rand -base64 24 | tee alice.txt | brokerctl user set alice`,
		Args: exactly("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := p.readPassword(file)
			if err != nil {
				return err
			}
			return p.with(func(c *client.Client) error {
				if err := c.SetPassword(cmd.Context(), args[0], password, iterations, mechanisms...); err != nil {
					return changing(err)
				}
				p.sayf("user %s can come in with the password", args[0])
				return nil
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "new-password-file", "", "file whose first line is the password (default: standard input)")
	f.IntVar(&iterations, "iterations", client.DefaultIterations, "how often the password is hashed, 4096 to 16384")
	f.StringSliceVar(&mechanisms, "mechanism", []string{client.SCRAMSHA256, client.SCRAMSHA512}, "SCRAM mechanisms")
	return cmd
}

// readPassword reads the first line of a file, or of standard input.
func (p *program) readPassword(file string) (string, error) {
	from := p.stdin
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", usagef("password file: %w", err)
		}
		defer func() { _ = f.Close() }() // it was only read
		from = f
	}
	line, err := bufio.NewReader(io.LimitReader(from, 4096)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", usagef("the password is empty: give one in the first line of the file, or of standard input")
	}
	return line, nil
}

func (p *program) userList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List users and how they can prove who they are",
		Example: "  brokerctl user list -o json",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.with(func(c *client.Client) error {
				users, err := c.Users(cmd.Context())
				if err != nil {
					return err
				}
				t := newTable("USER", "MECHANISM", ">ITERATIONS")
				for _, u := range users {
					t.row(u.User, u.Mechanism, u.Iterations)
				}
				if users == nil {
					users = []client.UserCredential{}
				}
				return p.show(users, t)
			})
		},
	}
}

func (p *program) userDelete() *cobra.Command {
	return &cobra.Command{
		Use:   "delete USER",
		Short: "Delete a user",
		Long: `delete takes a user's credentials away, so that it cannot come in any more. Connections
that it has go on until they have to be renewed (security.max_session). Its access rules
stay: brokerctl acl delete --principal User:NAME removes them.`,
		Example: "  brokerctl user delete alice",
		Args:    exactly("USER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.with(func(c *client.Client) error {
				users, err := c.Users(cmd.Context())
				if err != nil {
					return err
				}
				var found []client.UserCredential
				for _, u := range users {
					if u.User == args[0] {
						found = append(found, u)
					}
				}
				if len(found) == 0 {
					return fmt.Errorf("there is no user %q: brokerctl user list shows those that exist", args[0])
				}
				if err := c.DeleteUser(cmd.Context(), found...); err != nil {
					return changing(err)
				}
				p.sayf("user %s is gone", args[0])
				return nil
			})
		},
	}
}
